"""Timeline: a long clip read window by window, one person or several, with bounded memory.

    windows   a file as a row of windows, pictures and sound of each     people    who is where, and who speaks
    changes   where the probabilities change                            summary   segments, and sentences about them
    timeline  `omni timeline`: all of it                                plot      its picture

`from omni.timeline.timeline import read_timeline`. Torch is imported by what runs a model, in `timeline` and `people`.
"""
