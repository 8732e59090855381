"""Token files to rows: the published, already tokenised mix, in the published order.

files.py        lists of token files, and rows of them by number
published.py    the order of rows
backend.py      the whole, as the stream of batches reads it
"""
