"""A search: trials that Optuna proposes, pruned by synchronous halving, shared by several launchers.

    halving.py       which trial goes on, a pure function
    study.py         the trials of all launchers; who has which
    storage.py       where they are kept: a journal beside the runs, or another file
    sampling.py      the next point
    driver.py        what a launcher does: take a trial, run it, tell its loss
    wandb_sweep.py   the same space as a sweep file of W&B

What a search tries is declared in configs/sweep/ (train/compose/search.py).
"""
