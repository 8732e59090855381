"""Checks before a launch: the machine, its GPUs and links, data, weights, disks; each with a fix. No torch at import.

check.py       what a check returns, what it is given, and how checks run: none stops the others
machine.py     packages, driver, disks, memory
run.py         data, weights, W&B, the run's folder
ranks.py       what real ranks find: GPUs, an all-reduce and its bandwidth, clocks
worker.py      one such rank; the only part that imports torch
command.py     the command line, the table, and all nodes of a SLURM allocation
"""
