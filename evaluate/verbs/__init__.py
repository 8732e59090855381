"""The verbs of `python -m evaluate`, one file each. A new one is a file with `add`, listed here.

What takes long to import (torch) is imported where a verb runs.
"""

from evaluate.verbs import explore, probe, replicate

VERBS = (explore, probe, replicate)
