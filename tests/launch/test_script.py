"""What `--dry-run` prints for SLURM is the script that would be submitted, of all members of a sweep at once."""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from launch.__main__ import launch_sweep
from launch.ranks import shape_of
from launch.slurm.script import BY_HAND, START, script_of
from launch.slurm.submit import print_submission
from report.run_folder import RunFiles
from tests.composing import compose
from train.compose.sweep import compose_members
from train.config import RunConfig
from train.errors import TrainError
from train.launch_config import LaunchConfig, LaunchWay, SlurmConfig

NEEDED = ("experiment=demo", "launch=slurm", "launch.processes=4")


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return compose(*NEEDED)


def options(script: str) -> set[str]:
    lines = [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")]
    return set(lines)


def script(config: RunConfig, members: Sequence[str] = ("runs/demo",), **asked: object) -> str:
    launch = replace(config.launch, slurm=replace(config.launch.slurm, **asked))  # type: ignore[arg-type]
    return script_of(replace(config, launch=launch), Path("logs"), [RunFiles(member) for member in members], "demo")


def test_the_keys_are_options_of_sbatch(config: RunConfig) -> None:
    written = options(script(config))
    assert {"--nodes=1", "--gpus-per-node=8", "--time=24:00:00", "--signal=B:USR1@600", "--mem=0"} <= written
    assert {"--requeue", "--open-mode=append", "--output=logs/%j.log", f"--chdir={Path.cwd()}"} <= written
    asked = options(
        script(config, partition="gpu", account="me", cpus_per_node=64, options=["--exclusive"], memory=None)
    )
    assert {"--partition=gpu", "--account=me", "--cpus-per-task=64", "--exclusive"} <= asked
    assert not any(option.startswith("--mem") for option in asked)
    assert "--no-requeue" in options(script(config, requeue=False)) and "MOST_STARTS=0" in script(config, requeue=False)


def test_a_sweep_is_an_array_whose_tasks_have_a_run_each(config: RunConfig) -> None:
    text = script(config, ["runs/a", "runs/with space"], array_limit=1)
    assert {"--array=0-1%1", "--output=logs/%A_%a.log"} <= options(text)
    chosen = text.partition("set -- ")[0] + 'echo "$run" "$NODE_LOGS"'
    done = subprocess.run(["bash", "-c", chosen], env={"SLURM_ARRAY_TASK_ID": "1"}, capture_output=True, text=True)
    assert done.stdout == "runs/with space runs/with space/slurm\n"


def test_a_written_script_does_what_the_one_by_hand_does(config: RunConfig) -> None:
    text = script(config, container="image.sqsh", setup=["module load cuda"])
    assert text.endswith(BY_HAND.read_text().partition(START)[2]) and "\nmodule load cuda\n" in text
    assert "SRUN_OPTIONS=(--container-image=image.sqsh)" in text and "PROCESSES=4" in text
    for shown in (text, BY_HAND.read_text()):
        subprocess.run(["bash", "-n"], input=shown, text=True, check=True)


@pytest.mark.parametrize(
    ("nodes", "meeting"),
    [
        ("1", ["--standalone"]),
        ("2", ["--nnodes=2", "--rdzv-backend=c10d", "--rdzv-id=7", "--rdzv-endpoint=n1:20007"]),
    ],
)
def test_a_job_of_one_node_needs_no_port_that_others_may_have(tmp_path: Path, nodes: str, meeting: list[str]) -> None:
    for name, does in (("srun", 'printf "%s\\n" "$@"'), ("scontrol", "echo n1; echo n2")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "7", "SLURM_NNODES": nodes, "SLURM_JOB_NODELIST": "n[1-2]", "PYTHON": "python"}
    environment = {**job, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", BY_HAND, "seed=1"], env=environment, capture_output=True, text=True)
    workers = ["--kill-on-bad-exit=1", "python", "-m", "launch.torchrun", *meeting, "--nproc-per-node=1"]
    assert done.stdout.splitlines()[: len(workers)] == workers, done.stderr


DROPS_A_SIGNAL = """#!/bin/bash
trap : USR1  # as srun does before its tasks run
kill -USR1 $PPID
sleep 0.5
trap 'exit 75' USR1
for _ in $(seq 100); do sleep 0.1; done
"""


def test_a_warning_that_srun_drops_while_it_starts_is_sent_again(tmp_path: Path) -> None:
    (tmp_path / "srun").write_text(DROPS_A_SIGNAL)
    (tmp_path / "scontrol").write_text('#!/bin/sh\necho "$@"\n')
    for name in ("srun", "scontrol"):
        (tmp_path / name).chmod(0o755)
    environment = {"SLURM_JOB_ID": "7", "SLURM_NNODES": "1", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", BY_HAND], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "start 1 of job 7 ended with code 75: requeued\nrequeue 7\n"


def test_a_dry_run_prints_script_and_command_and_writes_nothing(
    config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert print_submission([replace(config, run_root=str(tmp_path))]) == 0
    printed, path = capsys.readouterr().out, tmp_path / "demo" / "slurm" / "job.sbatch"
    assert printed.startswith("#!/bin/bash") and printed.endswith(
        f"# would write {path} and submit it: sbatch --parsable {path}\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_members_that_ask_for_other_machines_are_refused_before_anything_is_submitted(tmp_path: Path) -> None:
    swept = [[*NEEDED, f"run_root={tmp_path}", "-m", f"seed={nodes}", f"launch.nodes={nodes}"] for nodes in (1, 2)]
    members = [member for arguments in swept for member in compose_members(arguments)]
    with pytest.raises(TrainError, match=r"asks SLURM for something else than .*launch keys cannot be swept"):
        launch_sweep(members, is_dry=False)
    assert list(tmp_path.iterdir()) == []


def test_a_batch_that_does_not_divide_over_all_machines_is_refused(config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="global_batch_size=24 cannot be split over 4 machines with 4 ranks each"):
        shape_of(replace(config, launch=LaunchConfig(LaunchWay.slurm, processes=4, nodes=4)))
    (tmp_path / "hosts").write_text("# two\na slots=2\nb slots=2\n")
    hosts = replace(config, launch=LaunchConfig(LaunchWay.nodes, hostfile=str(tmp_path / "hosts")))
    assert shape_of(hosts) == (2, 2)
    for wrong in ("a slots=2\nb slots=3\n", "a slots=2\na slots=2\n", "a\n", ""):
        (tmp_path / "hosts").write_text(wrong)
        with pytest.raises(TrainError, match=r"launch\.hostfile="):
            shape_of(hosts)


def test_a_script_is_not_written_for_fewer_gpus_than_ranks(config: RunConfig) -> None:
    few = LaunchConfig(LaunchWay.slurm, processes=8, gpus_per_node=4, slurm=SlurmConfig())
    with pytest.raises(TrainError, match=r"launch\.processes=8, but launch\.gpus_per_node=4"):
        shape_of(replace(config, launch=few))
