"""What `position_watch.policy=rollback` saves: failures put into training, with and without it, beside healthy runs.

    python -m benchmarks.rollback              writes benchmarks/results/rollback.md (about ten minutes on two cores)

A tiny model with RePo learns sequences of small steps, on the CPU. The loss is the mean cross entropy of the last
steps, which see the same batches in every run. Noise is the standard deviation of the healthy runs' losses over seeds.
"""

import argparse
import contextlib
import io
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, markdown_table, report
from report.metrics import CE_LOSS, positions_metric
from tests.train.tiny import tiny, write_tokens
from tests.train.watch.failing import Breaking, scale_final
from train.__main__ import train
from train.config import RunConfig
from train.distributed import Ranks, leave
from train.run_folder import RunFolder
from train.watch.config import AlertPolicy

RESULT = Path(__file__).parent / "results/rollback.md"
NUM_STEPS, NUM_LAST, INTERVAL, SAVES = 500, 100, 10, 50
SPREAD = positions_metric("std")
SEEDS = (1, 2, 3, 4)

TITLES = (
    *("failure", "`policy=warn`: loss", "spread", "`policy=rollback`: loss", "spread"),
    *("rollbacks", "within noise"),
)


@dataclass(frozen=True)
class Failure:
    """Something that damages the positions of a run."""

    what: str
    breaking: Callable[[], list[Breaking]] = list
    changes: dict[str, Any] = field(default_factory=dict)


FAILURES = (
    Failure(
        "W_z of all layers times 1000, after update 255",
        lambda: [Breaking(scale_final(1e3), range(255, 256), times=1)],
    ),
    Failure(
        "W_z times 1.4 after each of the updates 255 to 274",
        lambda: [Breaking(scale_final(1.4), range(255, 275), times=40)],
    ),
    Failure(
        "W_z of the first layer times 1.15 after each of the updates 255 to 334",
        lambda: [Breaking(scale_final(1.15), range(255, 335), only_first=True, times=80)],
    ),
    Failure("a rate of the maps 100 times the recipe's", changes={"optimizer__repo_lr_multiplier": 100.0}),
)


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    loss: float
    spread: float
    """The mean over all heads of the standard deviation of the positions, at the last reading."""
    code: int
    alerts: list[str]
    rollbacks: list[tuple[int, int]]
    """From step, to step."""


def configured(root: Path, name: str, **changes: Any) -> RunConfig:
    """Returns the config of a run."""
    settings: dict[str, Any] = {
        "max_steps": NUM_STEPS,
        "schedule__decay_steps": NUM_STEPS,
        "schedule__warmup_steps": 20,
        "schedule__final_fraction": 0.1,
        "checkpoint__interval": SAVES,
        "position_watch__interval": INTERVAL,
        "position_watch__rollback_warmup_steps": 20,
    }
    return tiny(root, name=name, micro_batch_size=None, **{**settings, **changes})


def run(config: RunConfig, ranks: Ranks, failure: Failure) -> Ended:
    """Trains, and returns how it ended."""
    with contextlib.redirect_stdout(io.StringIO()):
        code = train(config, ranks, failure.breaking())
    folder = RunFolder.of(config)
    rows, events = folder.read_metrics(), folder.read_events()
    ended = Ended(
        statistics.fmean(row[CE_LOSS] for row in rows[-NUM_LAST:]),
        [row[SPREAD] for row in rows if SPREAD in row][-1],
        code,
        [f"{event['kind']} at step {event['step']}" for event in events if event["event"] == "alert"],
        [(event["step"], event["to_step"]) for event in events if event["event"] == "rollback"],
    )
    print(config.name, ended, flush=True)
    return ended


def written(healthy: list[Ended], failed: list[tuple[Ended, Ended]], seconds: float) -> str:
    """Returns the result as Markdown."""
    losses = [ended.loss for ended in healthy]
    base, noise = losses[0], statistics.stdev(losses)
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "deepspeed"))
    lines = [
        "# Rollbacks",
        "",
        f"{time.strftime('%Y-%m-%d')}, {platform.machine()} CPU, Python {platform.python_version()}, {versions}.",
        f"`python -m benchmarks.rollback` took {seconds / 60:.0f} minutes: {NUM_STEPS} steps, a reading every",
        f"{INTERVAL} and a checkpoint every {SAVES}. The loss is the mean of the last {NUM_LAST} steps.",
        "",
        f"Healthy runs of {len(SEEDS)} seeds: {', '.join(f'{loss:.4f}' for loss in losses)}; their standard deviation,",
        f"the noise, is {noise:.4f}. The spread of their positions at the end (standard deviation, mean over heads) is",
        f"{', '.join(f'{ended.spread:.2g}' for ended in healthy)}. The failures are put into the first of them; in",
        "brackets the difference to it.",
        "",
    ]
    rows = []
    for failure, (warned, rolled) in zip(FAILURES, failed, strict=True):
        told = ", ".join(f"{there} to {back}" for there, back in rolled.rollbacks) or "none"
        within = "yes" if rolled.code == 0 and rolled.loss - base <= 2 * noise else "no"
        cells = [(f"{each.loss:.4f} ({each.loss - base:+.4f})", f"{each.spread:.2g}") for each in (warned, rolled)]
        rows.append((failure.what, *cells[0], *cells[1], told, within))
    lines.append(markdown_table(TITLES, rows))
    return "\n".join([*lines, "Within noise: no more than two standard deviations above the healthy run."]) + "\n"


def main() -> None:
    """Makes the runs and writes the result."""
    argparse.ArgumentParser(
        prog="python -m benchmarks.rollback", description=(__doc__ or "").split("\n")[0]
    ).parse_args()
    ranks, began = Ranks(), time.monotonic()
    ranks.join()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_tokens(root / "tokens", num_files=160)
        fine = Failure("nothing")
        healthy = [run(configured(root, f"healthy-{seed}", seed=seed), ranks, fine) for seed in SEEDS]
        failed = []
        for number, failure in enumerate(FAILURES):
            both = [
                run(
                    configured(
                        root,
                        f"{policy.value}-{number}",
                        seed=SEEDS[0],
                        position_watch__policy=policy,
                        **failure.changes,
                    ),
                    ranks,
                    failure,
                )
                for policy in (AlertPolicy.warn, AlertPolicy.rollback)
            ]
            failed.append((both[0], both[1]))
    text = written(healthy, failed, time.monotonic() - began)
    RESULT.write_text(text)
    print(text)
    back = text.count("| yes |")
    report(Figure("failures from which a rollback brings a run back", back, at_least=len(FAILURES)))


if __name__ == "__main__":
    main()
    leave(0)
