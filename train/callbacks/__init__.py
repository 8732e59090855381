"""Everything periodic: a file per callback; build.py lists those of a run. config.py needs no torch."""
