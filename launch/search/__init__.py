"""A search: trials that Optuna proposes, pruned by synchronous halving, shared by several launchers.

    halving.py       which trial goes on, a pure function
    study.py         the trials, in a journal beside the runs; who has which
    sampling.py      the next point
    driver.py        what a launcher does: take a trial, run it, tell its loss
    wandb_sweep.py   the same space as a sweep file of W&B

What a search tries is declared in configs/sweep/ (train/compose/search.py).
"""
