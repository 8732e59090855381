"""Checkpoints that are whole or absent, and from which a run goes on anywhere.

DeepSpeed writes in place, names `latest` before all ranks are done, checks nothing when it loads, and loads only into
the layout that saved. Here:

    config.py       the settings; importable without torch, as is this package
    manifest.py     sizes and digests of all files: what was torn or altered is found
    store.py        the folder: one rename publishes a checkpoint, another takes it away
    save.py         every rank writes, the main rank publishes; at once, or behind the training
    resume.py       the one decision of what a run starts from; loading
    universal.py    the same state for another number of ranks, ZeRO stage or precision
    generators.py   random generators
"""
