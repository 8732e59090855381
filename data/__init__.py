"""Documents in, rows of tokens out, as a pure function of the step.

    config.py         what a run reads                       stream.py        the batches of a rank, and their state
    validation.py     rows that are never trained on         rows.py          the interface of the two backends below
    text/             backend: text, tokenised on the fly    tokens/          backend: published token files
    fetch/            files from folders, web servers, the hub and buckets; the cache
    tools/            command line tools; `python -m data --help`

Start with stream.py and text/backend.py.
"""
