"""Submits runs to SLURM: one run as a job, the members of a sweep as one array.

A run's config is written when it is submitted, so that a later change of the checkout does not change what is trained.
The id of the job is in the run folder; a run whose job has not ended is not submitted again.
"""

import contextlib
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from common.files import write_text_whole
from launch.ranks import shape_of
from launch.slurm.jobs import live_jobs, submit_command, submit_script
from launch.slurm.script import BY_HAND, log_of, script_of
from train.compose.app import save_run_config
from train.config import RunConfig
from train.errors import EXIT_OK, TrainError
from train.run_folder import RunFolder, explained_write_errors

SCRIPT = "job.sbatch"


def submit(configs: Sequence[RunConfig], sweep: str = "") -> int:
    """Submits one run, or the members of a sweep; prints their jobs. Returns the exit code.

    Members whose job has not ended are left out. Raises TrainError if there is nothing to submit, or if it is refused.
    """
    waiting = _without_job(configs)
    path, text = _script(waiting, sweep)
    _check_inputs(waiting)
    folders = [RunFolder.of(config) for config in waiting]
    with explained_write_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_whole(path, text, durable=False)
        for config, folder in zip(waiting, folders, strict=True):
            save_run_config(config, folder.slurm_config)
    try:
        job_id = submit_script(str(path))
    except TrainError:
        for file in (path, *(folder.slurm_config for folder in folders)):
            _remove_with_folders(file)
        raise
    for index, (config, folder) in enumerate(zip(waiting, folders, strict=True)):
        own = job_id if len(waiting) == 1 else f"{job_id}_{index}"
        write_text_whole(folder.job_file, f"{own}\n", durable=False)
        print(f"{config.name} is job {own}; its nodes print to {log_of(config, own)}")
    print(f"script: {path}; python -m launch status lists where runs are, python -m launch stop RUN saves and ends one")
    return EXIT_OK


def _check_inputs(configs: Sequence[RunConfig]) -> None:
    """Raises TrainError if what a run would read is absent here, unless a container sees other folders."""
    from launch.inputs import check_inputs  # here, as it imports numpy and all that reads data

    for config in configs:
        if config.launch.slurm.container is None:
            try:
                check_inputs(config)
            except TrainError as error:
                raise TrainError(f"{error}; if only the nodes see it, submit {BY_HAND.name} by hand") from None


def print_submission(configs: Sequence[RunConfig], sweep: str = "") -> int:
    """Prints the script and the command that would submit it; returns the exit code. Raises TrainError."""
    path, text = _script(_without_job(configs), sweep)
    print(f"{text}\n# would write {path} and submit it: {shlex.join(submit_command(str(path)))}")
    return EXIT_OK


def _without_job(configs: Sequence[RunConfig]) -> list[RunConfig]:
    """Returns the runs that no job waits for or trains, and says which are left out. Raises TrainError if all are."""
    _check_alike(configs)
    ids = {config.name: RunFolder.of(config).job_id() for config in configs}
    live = live_jobs() if any(ids.values()) else {}
    for config in configs:
        if job := live.get(ids[config.name] or ""):
            print(f"{config.name} is not submitted again: {job.text}", file=sys.stderr)
    waiting = [config for config in configs if (ids[config.name] or "") not in live]
    if not waiting:
        raise TrainError("nothing is left to submit; `python -m launch stop RUN` ends a job, after saving")
    return waiting


def _remove_with_folders(file: Path) -> None:
    """Deletes a file, and the two folders above it if they are empty."""
    with contextlib.suppress(OSError):
        file.unlink(missing_ok=True)
        file.parent.rmdir()
        file.parent.parent.rmdir()


def _script(configs: Sequence[RunConfig], sweep: str) -> tuple[Path, str]:
    """Returns the script's path and text: of one run in its own folder, of a sweep in one beside the members."""
    folders = [RunFolder.of(config) for config in configs]
    folder = folders[0].slurm if len(configs) == 1 else Path(configs[0].run_root) / f"{sweep}-slurm"
    name = configs[0].name if len(configs) == 1 else sweep
    return folder / SCRIPT, script_of(configs[0], folder, folders, name)


def _check_alike(configs: Sequence[RunConfig]) -> None:
    """Raises TrainError if members of a sweep ask for other machines: the tasks of an array have all the same."""
    for config in configs:
        if shape_of(config) != shape_of(configs[0]) or asdict(config.launch) != asdict(configs[0].launch):
            raise TrainError(
                f"{config.name} asks SLURM for something else than {configs[0].name}: a sweep is one array job, so "
                "launch keys cannot be swept; start a sweep for each"
            )
