"""What `python -m data VERB` does, apart from fetching.

commands.py                  the verbs, between their options and the modules that do the work
sample.py, sample_texts.py   a miniature mix of real text from the Python installation
convert.py                   text to token files
verify.py                    hashes, encodings and token ids of the files of a folder
summary.py                   files, documents, bytes and tokens of each source
"""
