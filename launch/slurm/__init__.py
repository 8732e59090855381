"""Runs as SLURM jobs: the script, its submission, and what the scheduler says of a job."""
