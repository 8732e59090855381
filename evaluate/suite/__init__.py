"""Published suites by lm-eval, beside the numbers of the RePo paper (arXiv 2512.14391).

suites.py      which tasks, with which settings and which data
published.py   the paper's numbers
stretched.py   an export with YaRN, without a copy of its weights
harness.py     lm-eval as a command of its own environment, one task at a time
tables.py      ours beside the paper's
"""
