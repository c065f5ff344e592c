"""Timeline: a long clip read window by window, one person or several, with bounded memory.

    windows   a file as a row of windows, pictures and sound of each (`streams` decodes them)
    people    who is where, and who speaks                              changes   where the probabilities change
    summary   passages between changes, and sentences about them        record    what a timeline is made of
    timeline  `omni timeline`: all of it                                plot      its picture

`from omni.timeline.timeline import read_timeline`. Torch is imported by what runs a model, in `timeline` and `people`.
"""
