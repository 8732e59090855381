"""Token files to rows: the published, already tokenised mix, in the published order.

files.py, layout.py    lists of token files, rows of them by number, and how a file stores ids
published.py           the order of rows
backend.py             the whole, as the stream of batches reads it
mixed.py               the same for several lists with weights
"""
