"""The position watch: what is measured of learned positions, and what counts as a failure.

`meter.py` takes a reading (`reading.py`) of one step: the statistics that `statistics.py` defines, and the training
signals of the maps. `detectors.py` compares readings and raises alerts (`alert.py`).
"""
