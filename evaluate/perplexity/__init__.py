"""The loss of each token of long documents, by its index, with and without YaRN.

config.py      the settings
documents.py   which documents, and their tokens
measure.py     losses by range of indices, a row on disk for each document
tables.py      means over documents, perplexities, and differences between models
"""
