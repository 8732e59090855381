"""The replication: the paper's comparison of position schemes, small, over seeds, with intervals.

config.py       what is compared, on what, how long          corpus.py       token files and a tokenizer, of tasks
runs.py         the runs of the trainer, by sweeps           score.py        probes of a trained run
statistics.py   paired differences, bootstrap, Holm          findings.py     all differences, and what they support
"""
