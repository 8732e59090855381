"""Text to rows of tokens, on the fly.

decode.py, records.py     files of JSON lines or tables to documents
ingest.py, frames.py      each file once, into a cache with random access
order.py, holdout.py      documents in seeded order, without those held out for validation
packing.py, mixing.py     documents to rows, and the source of each row
backend.py                the whole, as the stream of batches reads it
"""
