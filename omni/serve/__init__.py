"""`omni serve`: an HTTP server that speaks OpenAI's API about clips. Extra `serve`.

    client ─► guard.py        who may ask, how much, how fast; before a body is read
           ─► app.py          the routes; schema.py is what goes in and out, completion.py one chat completion
           ─► page.py         the web page at /, files that never change
           ─► media.py        a URL, an upload (files.py) or a remote address (fetch.py) ─► a clip in private files
           ─► model_thread.py the one thread in which the model runs, many requests at once
    settings.py what the command line chose; metrics.py what is counted; server.py starts and drains it all

The model runs in one thread, the towers and the reading of clips in two others, HTTP in the event loop: what they hand
to each other is whole (a `ClipFeatures`, a `Job`, an event), so there is nothing to lock but two caches.

What a clip, a transcript or a file's name says is data: it is quoted in a prompt or not there at all, never a path,
never a command, and no answer of the model is fetched, run or put into a page.
"""
