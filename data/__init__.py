"""Corpora and synthetic actors: everything that turns somebody's recordings, or ours, into a manifest.

One file per corpus; `corpus` has what their readers share. The synthetic actors take several: `facekit` (the head),
`texture`, `hair` and `raster` (its looks), `render` (one frame), `expressions` (what the face does and when).

Imports only the torch-free leaves of `omni`, never torch and never `rewards`.
"""
