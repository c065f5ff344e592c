"""Cues: what can be seen in a face and heard in a voice, as data, as words, and as measurements.

    lexicon   the cues, and how text names them        truth    which cues are there, by known units and prosody
    voice     prosody of a wave                        reader   which cues are there, by what was measured
    face, speech, record, plot, timeline               `omni cues`: all of it as records in time

Nothing here imports torch but the functions that run the face tower.
"""
