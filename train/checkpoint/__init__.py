"""Checkpoints that are whole or absent, and that continue on any number of ranks.

DeepSpeed writes in place, names `latest` before all ranks are done, verifies nothing when it loads, and loads only into
the layout that saved. Here:

    config.py       the settings; importable without torch, as is this package
    checkpoints.py  the owner: find, decide, load, save, and what a full disk means
    manifest.py     sizes and digests of all files: truncated or altered files are found
    store.py        the folder: one rename publishes a checkpoint, another removes it
    save.py         every rank writes, the main rank publishes; at once, or in the background
    resume.py       the decision what a run starts from; verifying and loading
    universal.py    the same state for another number of ranks, ZeRO stage or precision
    generators.py   random generators
"""
