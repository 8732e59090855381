"""The verbs of `python -m evaluate`, one file each. A new one is a file with `add`, listed here.

What takes long to import (torch) is imported where a verb runs.
"""

from evaluate.verbs import ablate, attention, explore, page, patterns, perplexity, probe, replicate, start_layers, suite

VERBS = (probe, perplexity, attention, patterns, ablate, start_layers, suite, page, explore, replicate)
