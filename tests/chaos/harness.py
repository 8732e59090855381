"""A real two-rank job that is killed with SIGKILL at random moments and started again each time, until it is done.

The moments and the targets come from a seed. Targets: all processes of the job, one rank, one data worker, or only the
launcher or torchrun, so that ranks are left. Moments: while processes start, in the steps, in a save, right
after one, in a conversion. In the end every logged figure has to be that of a run that was not disturbed, to the bit.

A run has segments. Each segment is one command that is killed and repeated; it has no last step, so that no kill comes
too late on a slow machine. One more launch, with a last step a little further on, ends the segment. The next segment
may have another ZeRO stage, and so begins with a conversion. The undisturbed run follows: its segments end at the same
steps.
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
HANG_SECONDS = 900.0  # after which a wait fails: only to end a hang
INTERVAL = 3  # steps between two checkpoints
MOST_AHEAD = 5  # steps, from 1 to this, that a launch makes before it is killed
ENDLESS = 100_000  # a last step that no launch reaches
STEPS_AFTER = 4  # that the last launch of a segment makes beyond what is logged
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
    """One kill."""

    target: str
    moment: str
    seconds: float
    """After the launch."""
    last_step: int
    """In metrics.jsonl at that moment."""
    code: int
    """Of the launcher."""


@dataclass(frozen=True)
class Segment:
    """A part of a run under one ZeRO stage."""

    num_kills: int
    zero_stage: int = 2


@dataclass(frozen=True)
class EndedSegment:
    """A segment, and the step after which it ended."""

    last_step: int
    zero_stage: int


def command(root: Path, name: str, zero_stage: int, last_step: int, *extra: str) -> list[str]:
    """Returns the command line of a launch."""
    data = [f"data.root={root / 'tokens'}", f"data.file_list={root / 'tokens/files.txt'}"]
    run = [f"run_root={root}", f"name={name}", f"max_steps={last_step}", f"engine.zero_stage={zero_stage}"]
    return [sys.executable, "-m", "launch", *COMMAND, *data, *run, *extra]


def run_with_kills(
    root: Path, name: str, segments: list[Segment], *extra: str, seed: int = 0
) -> tuple[list[Kill], list[EndedSegment]]:
    """Makes a run that is killed as often as its segments say. Its output is in ROOT/NAME.log.

    Raises AssertionError if a launch that is not killed fails, and if some process of the job does not end.
    """
    write_tokens(root / "tokens")
    rng, kills, ended, folder = random.Random(seed), list[Kill](), list[EndedSegment](), RunFolder(root / name)
    for segment in segments:
        endless = command(root, name, segment.zero_stage, ENDLESS, *extra)
        for number in range(segment.num_kills):
            converts = number == 0 and bool(ended) and ended[-1].zero_stage != segment.zero_stage
            moment = "conversion" if converts else rng.choice(["start", "step", "step", "save", "save", "published"])
            kills.append(_launch_and_kill(root, folder, endless, moment, rng))
            print(kills[-1], flush=True)
        ended.append(EndedSegment(_last_step(folder) + STEPS_AFTER, segment.zero_stage))
        _launch_to_end(root, name, ended[-1], *extra)
    return kills, ended


def run_undisturbed(root: Path, name: str, segments: list[EndedSegment], *extra: str) -> None:
    """Makes a run with the same segments. Raises AssertionError if a launch fails."""
    write_tokens(root / "tokens")
    for segment in segments:
        _launch_to_end(root, name, segment, *extra)


def losses(folder: RunFolder) -> dict[int, Any]:
    """Everything of each logged step that does not come from a clock."""
    return {
        row["step"]: {key: value for key, value in row.items() if not key.startswith("throughput/")}
        for row in folder.read_metrics()
    }


def differences(folder: RunFolder, other: RunFolder) -> list[int]:
    """Steps that are missing in one of two runs, or differ in any bit of any figure."""
    first, second = losses(folder), losses(other)
    return [step for step in sorted(first.keys() | second.keys()) if first.get(step) != second.get(step)]


def _launch_to_end(root: Path, name: str, segment: EndedSegment, *extra: str) -> None:
    launch = command(root, name, segment.zero_stage, segment.last_step, *extra)
    with _log(root, name) as log:
        ended = subprocess.run(launch, cwd=ROOT, env=_environment(), stdout=log, stderr=log, timeout=HANG_SECONDS)
    assert ended.returncode == 0, (root / f"{name}.log").read_text()[-3000:]


def _launch_and_kill(root: Path, folder: RunFolder, launch: list[str], moment: str, rng: random.Random) -> Kill:
    log = root / f"{folder.path.name}.log"
    log_size = log.stat().st_size if log.exists() else 0
    with _log(root, folder.path.name) as output:
        process = subprocess.Popen(launch, cwd=ROOT, env=_environment(), stdout=output, stderr=output)
    began = time.monotonic()
    if moment == "conversion":
        _until(lambda: b"converting " in log.read_bytes()[log_size:], process)
        time.sleep(rng.uniform(0, 0.2))
    elif moment == "start":
        _wait_in_start(process, rng)
    else:
        _wait_in_steps(folder, process, moment, rng)
    assert process.poll() is None, f"ended before it was killed ({moment}): {log.read_text()[-3000:]}"
    descendants = _descendants(process)
    target = _kill_some(process, descendants, rng)
    seconds, step = round(time.monotonic() - began, 2), _last_step(folder)
    code = process.wait(timeout=HANG_SECONDS)
    assert code != 0, f"success is reported although {target} was killed ({moment})"
    _, running = psutil.wait_procs(descendants, timeout=HANG_SECONDS)  # ranks without a parent save and exit
    assert not running, f"still running after {target} was killed: {[child.cmdline() for child in running]}"
    return Kill(target, moment, seconds, step, code)


def _wait_in_start(process: subprocess.Popen[bytes], rng: random.Random) -> None:
    """Waits for a moment after some processes of the job are there."""
    num_processes = rng.choice([0, 1, 3])  # none, torchrun, its ranks
    _until(lambda: len(_descendants(process)) >= num_processes, process, pause=0.05)
    time.sleep(rng.uniform(0, 2))


def _wait_in_steps(folder: RunFolder, process: subprocess.Popen[bytes], moment: str, rng: random.Random) -> None:
    """Waits for a step, and then for a save or its end if that is the moment."""
    last_step, num_saved = _last_step(folder) + rng.randint(1, MOST_AHEAD), len(_checkpoints(folder))
    _until(lambda: _last_step(folder) >= last_step, process)
    if moment == "published":
        _until(lambda: len(_checkpoints(folder)) > num_saved, process)
        return
    if moment == "save":
        _until(lambda: any(folder.checkpoints.glob(".part-*/*")), process, pause=0.001)
    time.sleep(rng.uniform(0, 0.03))


def _until(condition: Callable[[], object], process: subprocess.Popen[bytes], *, pause: float = 0.005) -> None:
    """Waits for `condition`, or until the process ends. Raises AssertionError after a hang."""
    deadline = time.monotonic() + HANG_SECONDS
    while not condition() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(pause)


def _descendants(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _kill_some(process: subprocess.Popen[bytes], descendants: list[psutil.Process], rng: random.Random) -> str:
    """Kills some of the job's processes; returns which."""
    launcher = psutil.Process(process.pid)
    agents = [child for child in descendants if "launch.torchrun" in _arguments(child)]
    # Ranks and their data workers, which are forks of them.
    trainers = [child for child in descendants if "train" in _arguments(child)]
    ranks = [child for child in trainers if _parent(child) in [agent.pid for agent in agents]]
    workers = [child for child in trainers if _parent(child) in [rank.pid for rank in ranks]]
    targets = {
        "the launcher": [launcher],
        "torchrun": agents,
        "one rank": ranks and [rng.choice(ranks)],
        "a data worker": workers and [rng.choice(workers)],
        "everything": [launcher, *descendants],
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
