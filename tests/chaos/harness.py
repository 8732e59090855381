"""A real two-rank job that is killed with SIGKILL at random moments and started again with the same command.

The moments and the targets come from a seed. Targets: all processes of the job, one rank, one data worker, or only the
launcher or torchrun, so that ranks are left. Moments: while processes start, in the steps, in a save, right after one,
in a conversion. In the end every logged figure has to be bit-identical to that of an undisturbed run.

A run has segments. Each segment is one command, repeated until it has reached the last step of the segment; the next
segment may have another ZeRO stage, and then begins with a conversion.
"""

import contextlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from common.json_lines import read_json_lines
from tests.train.tiny import LENGTH, VOCAB_SIZE, write_tokens
from train.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
INTERVAL = 3
COMMAND = (
    "experiment=demo",
    "data=olmo2-stage2",
    "data.eos_token_id=0",
    f"model.vocab_size={VOCAB_SIZE}",
    "model.hidden_size=32",
    "model.intermediate_size=48",
    "model.num_layers=3",
    "model.num_heads=2",
    "model.eos_token_id=0",
    "model.pad_token_id=0",
    "positions.start_layer=1",
    f"sequence_length={LENGTH}",
    "global_batch_size=8",
    "micro_batch_size=2",
    "init_from=null",
    "schedule.warmup_steps=2",
    "schedule.decay_steps=1000",
    f"checkpoint.interval={INTERVAL}",
    "checkpoint.export_hf=false",
    "wandb.mode=disabled",
    "launch.processes=2",
)


@dataclass
class Kill:
    """One SIGKILL to one or several processes."""

    target: str
    moment: str
    seconds: float  # after the launch
    last_step: int  # in metrics.jsonl at the kill
    code: int  # of the launcher


@dataclass(frozen=True)
class Segment:
    """A part of a run."""

    last_step: int
    zero_stage: int = 2
    num_kills: int = 0


def command(root: Path, name: str, segment: Segment, *extra: str) -> list[str]:
    """The command of a segment, each time the same."""
    data = [f"data.root={root / 'tokens'}", f"data.file_list={root / 'tokens/files.txt'}"]
    run = [
        f"run_root={root}",
        f"name={name}",
        f"max_steps={segment.last_step}",
        f"engine.zero_stage={segment.zero_stage}",
    ]
    return [sys.executable, "-m", "launch", *COMMAND, *data, *run, *extra]


def run(root: Path, name: str, segments: list[Segment], *extra: str, seed: int = 0) -> list[Kill]:
    """The whole run, killed as often as its segments say. Its output is in ROOT/NAME.log.

    Raises AssertionError if a launch that is not killed fails, and if some process of the job does not end.
    """
    write_tokens(root / "tokens")
    rng, kills, folder = random.Random(seed), list[Kill](), RunFolder(root / name)
    for segment in segments:
        launch, converts = command(root, name, segment, *extra), bool(kills) or folder.path.exists()
        for left in range(segment.num_kills, 0, -1):
            moments = ["start", "step", "step", "save", "save", "published"]
            moment = "conversion" if converts and left == segment.num_kills else rng.choice(moments)
            kills.append(_launch_and_kill(root, folder, segment, launch, moment, left, rng))
            print(kills[-1], flush=True)
        with _log(root, name) as log:
            ended = subprocess.run(launch, cwd=ROOT, env=_environment(), stdout=log, stderr=log)
        assert ended.returncode == 0, (root / f"{name}.log").read_text()[-3000:]
    return kills


def losses(folder: RunFolder) -> dict[int, Any]:
    """Everything of each logged step that does not come from a clock."""
    return {
        row["step"]: {key: value for key, value in row.items() if not key.startswith("throughput/")}
        for row in read_json_lines(folder.metrics)
    }


def differences(folder: RunFolder, other: RunFolder) -> list[int]:
    """Steps that are missing in one of two runs, or differ in any bit of any figure."""
    first, second = losses(folder), losses(other)
    return [step for step in sorted(first.keys() | second.keys()) if first.get(step) != second.get(step)]


def _launch_and_kill(
    root: Path, folder: RunFolder, segment: Segment, launch: list[str], moment: str, left: int, rng: random.Random
) -> Kill:
    done, log = _last_step(folder), root / f"{folder.path.name}.log"
    log_size = log.stat().st_size if log.exists() else 0
    num_saved = len(_checkpoints(folder))
    # Far enough to make progress, and not so far that the segment ends before the last kill.
    ahead = rng.randrange(1, max(2, (segment.last_step - done) // (left + 1)))
    with _log(root, folder.path.name) as output:
        process = subprocess.Popen(launch, cwd=ROOT, env=_environment(), stdout=output, stderr=output)
    began, descendants = time.monotonic(), dict[int, psutil.Process]()
    if moment == "start":
        _until(lambda: False, process, descendants, longest=rng.uniform(0.5, 6.0))
    elif moment == "published":
        _until(lambda: len(_checkpoints(folder)) > num_saved + ahead // INTERVAL, process, descendants)
    elif moment == "conversion":
        _until(lambda: b"converting " in log.read_bytes()[log_size:], process, descendants)
        time.sleep(rng.uniform(0, 0.2))
    else:
        _until(lambda: _last_step(folder) >= done + ahead, process, descendants)
        if moment == "save":
            _until(lambda: any(folder.checkpoints.glob(".part-*/*")), process, descendants)
        time.sleep(rng.uniform(0, 0.03))
    assert process.poll() is None, f"ended before the kill ({moment}): {log.read_text()[-3000:]}"
    target = _kill(process, descendants, rng)
    seconds, step = round(time.monotonic() - began, 2), _last_step(folder)
    code = process.wait(timeout=120)
    assert code != 0, f"success is reported although {target} was killed ({moment})"
    _, running = psutil.wait_procs(list(descendants.values()), timeout=120)  # ranks without a parent save and exit
    assert not running, f"still running after {target} was killed: {[child.cmdline() for child in running]}"
    return Kill(target, moment, seconds, step, code)


def _until(
    condition: Callable[[], object],
    process: subprocess.Popen[bytes],
    descendants: dict[int, psutil.Process],
    longest: float = 120.0,
) -> None:
    """Waits for it, `longest` seconds at most, or until the process ends; notes all its descendants meanwhile."""
    deadline = time.monotonic() + longest
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(psutil.NoSuchProcess):
            descendants.update({child.pid: child for child in psutil.Process(process.pid).children(recursive=True)})
        time.sleep(0.002)


def _kill(process: subprocess.Popen[bytes], descendants: dict[int, psutil.Process], rng: random.Random) -> str:
    """Kills some of the job's processes; returns which."""
    _until(lambda: True, process, descendants)
    launcher = psutil.Process(process.pid)
    agents = [child for child in descendants.values() if "launch.torchrun" in _arguments(child)]
    # Ranks and their data workers, which are forks of them.
    trainers = [child for child in descendants.values() if "train" in _arguments(child)]
    ranks = [child for child in trainers if _parent(child) in [agent.pid for agent in agents]]
    workers = [child for child in trainers if _parent(child) in [rank.pid for rank in ranks]]
    targets = {
        "the launcher": [launcher],
        "torchrun": agents,
        "one rank": ranks and [rng.choice(ranks)],
        "a data worker": workers and [rng.choice(workers)],
        "everything": [launcher, *descendants.values()],
    }
    there = [target for target, processes in targets.items() if processes]
    chosen = rng.choice([*there, "everything"])
    for target_process in targets[chosen]:
        with contextlib.suppress(psutil.NoSuchProcess):
            target_process.kill()
    return chosen


def _parent(process: psutil.Process) -> int:
    try:
        return process.ppid()
    except psutil.Error:
        return -1


def _arguments(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()[:5]
    except psutil.Error:
        return []


def _last_step(folder: RunFolder) -> int:
    rows = read_json_lines(folder.metrics)
    return int(rows[-1]["step"]) if rows else 0


def _checkpoints(folder: RunFolder) -> list[dict[str, Any]]:
    return [event for event in read_json_lines(folder.events) if event["event"] == "checkpoint"]


def _log(root: Path, name: str) -> Any:
    return (root / f"{name}.log").open("ab")


def _environment() -> dict[str, str]:
    return {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
