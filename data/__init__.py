"""Documents in, rows of tokens out: decoding, tokenising, packing and mixing, as a pure function of the step.

Start with `data/stream.py`; `data/text.py` shows how text becomes rows, `data/tokens.py` reads published token files.
"""
