"""Writes the job script of a run, or of all members of a sweep as an array: `#SBATCH` lines from the config.

What the script does is in job.sbatch, which can be submitted by hand; only the lines before its `set` are replaced.
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from launch.ranks import shape_of
from report.run_folder import RunFiles
from train.config import RunConfig
from train.run_folder import RunFolder

BY_HAND = Path(__file__).with_name("job.sbatch")
START = "# The rest is the same in every script.\n"


def script_of(config: RunConfig, folder: Path, members: Sequence[RunFiles], name: str) -> str:
    """Returns the script of the runs in `members`, an array job if there are several; `folder` is for its own log.

    What a run trains is the config file that RunFiles.slurm_config names. Raises TrainError as `shape_of` does.
    """
    given = config.launch.slurm
    _, ranks = shape_of(config)
    is_array = len(members) > 1
    options = sbatch_options(config, folder, len(members), name)
    starts = given.most_starts if given.requeue else 0
    container = {"image": given.container, "mounts": given.container_mounts}
    srun = [f"--container-{what}={value}" for what, value in container.items() if value is not None]
    paths = " ".join(shlex.quote(str(files.path)) for files in members)
    lines = [
        "#!/bin/bash",
        "# Written by python -m launch. To submit it again: sbatch and the name of this file.",
        *(f"#SBATCH {shlex.quote(option)}" for option in options),
        f"MOST_STARTS={starts}",
        f"PYTHON={shlex.quote(given.python or sys.executable)}",
        f"PROCESSES={ranks}",
        f"SRUN_OPTIONS=({shlex.join(srun)})",
        f"runs=({paths})",
        f"run=${{runs[{'$SLURM_ARRAY_TASK_ID' if is_array else 0}]}}",
        f"NODE_LOGS=$run/{RunFiles('').slurm}",
        f'set -- --config "$run/{RunFiles("").slurm_config}"',
        *given.setup,
        "",
    ]
    return "\n".join(lines) + "\n" + BY_HAND.read_text().partition(START)[2]


def sbatch_options(config: RunConfig, folder: Path, num_members: int, name: str) -> list[str]:
    """Returns what the config asks of sbatch, as options."""
    launch, given = config.launch, config.launch.slurm
    wanted: dict[str, object] = {
        "job-name": name,
        "chdir": Path.cwd(),
        "nodes": launch.nodes,
        "ntasks-per-node": 1,
        "gpus-per-node": launch.gpus_per_node or None,
        "cpus-per-task": given.cpus_per_node,
        "mem": given.memory,
        "time": given.time,
        "signal": f"B:USR1@{given.warning_seconds}",
        "partition": given.partition,
        "account": given.account,
        "qos": given.qos,
        "open-mode": "append",
        "output": folder / ("%A_%a.log" if num_members > 1 else "%j.log"),
    }
    options = [f"--{option}={value}" for option, value in wanted.items() if value is not None]
    options.append("--requeue" if given.requeue else "--no-requeue")
    if num_members > 1:
        limit = "" if given.array_limit is None else f"%{given.array_limit}"
        options.append(f"--array=0-{num_members - 1}{limit}")
    return [*options, *given.options]


def log_of(config: RunConfig, job: str) -> str:
    """Returns the pattern of the logs that the nodes of a job write."""
    return str(RunFolder.of(config).slurm / f"{job}-*.log")
