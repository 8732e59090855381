"""The page of evaluations: what `python -m evaluate` has written about one or several models, side by side.

`page.py` lists the sections, one file each: a new one is a module with `section`, which returns its HTML or None where
no folder has results of its kind. `folder.py` reads an evaluation folder. One file without a script comes of it.
"""
