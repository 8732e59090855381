"""docs/positions.md names every figure and every alert, and states the thresholds that are in force."""

import math
import re
from pathlib import Path

from report.metrics import HEAD_SIGNALS, STATISTICS, signals
from report.schemes import map_symbols
from train.watch import memory, verdicts
from train.watch.alert import ADVICE, RECOVERED

SIGNALS = signals(map_symbols({}))
TEXT = (Path(__file__).parents[3] / "docs" / "positions.md").read_text()


def test_every_figure_is_explained() -> None:
    named = set(re.findall(r"`([a-z0-9_]+)`", TEXT))
    assert STATISTICS.keys() | HEAD_SIGNALS.keys() <= named
    abbreviated = {f"{name}_{figure}" for name in ("content", "final") for figure in ("grad_norm", "update_ratio")}
    assert SIGNALS.keys() - abbreviated <= named
    assert set(STATISTICS) & set(SIGNALS) == set()


def test_every_alert_is_explained() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (?:head|model|layer|layer or head) \| (.*) \|$", TEXT, re.MULTILINE))
    assert rows.keys() == ADVICE.keys() == RECOVERED.keys()
    for kind, values in {
        "collapse": (
            f"below {verdicts.VANISHED_ROW:.0%} of the highest, or below {verdicts.COLLAPSED:.0%} while",
            f"above {verdicts.RESTORED:.0%} and",
            f"above {verdicts.RESTORED:.0%} of the highest",
            f"below {memory.RESOLVED:g} ",
            f"{verdicts.FLAT:.0%}",
            f"below {verdicts.VANISHED:.2%} of the highest",
        ),
        "explosion": (
            f"above {verdicts.EXPLODED:g} sequence lengths",
            f"above {verdicts.LARGE:g} with a `q99` - `q01` of {verdicts.JUMPED:g} times",
            f"beyond 2^{math.log2(verdicts.COARSE):g}",
            f"below {verdicts.CONTAINED:g}",
            f"to {verdicts.OUTGROWN:g} times the highest",
            f"below {verdicts.REGROWN:g} times the highest",
        ),
        "not_finite": (),
        "wrong_positions": (f"above {verdicts.WRONG_POSITIONS:g}", f"below {verdicts.RIGHT_POSITIONS:g}"),
        "same_heads": (f"above {verdicts.SAME:g}", f"below {verdicts.DIFFERENT:g}"),
        "wrong_gradient": (
            f"below {verdicts.SLOPES[0]:g} or above {verdicts.SLOPES[1]:g}",
            f"`gradient_residual` above {verdicts.WRONG_RESIDUAL:g}",
            f"`gradient_residual` below {verdicts.RIGHT_RESIDUAL:g}",
            f"`gradient_error` above {verdicts.WRONG_ERROR:g}",
            f"`gradient_error` below {verdicts.RIGHT_ERROR:g}",
        ),
        "wrong_update": (
            f"`update_error` above {verdicts.WRONG_UPDATE:.0e}".replace("e-0", "e-"),
            f"below {verdicts.RIGHT_UPDATE:.0e}".replace("e-0", "e-"),
        ),
        "rope": (f"{verdicts.LIKE_INDEX}", f"{verdicts.UNLIKE_INDEX}"),
        "dead_gradient": (f"{memory.DEAD:.1%}", f"{verdicts.ALIVE:.0%}"),
        "instability": tuple(
            f"{share:.0%}"
            for share in (
                verdicts.LARGE_UPDATE,
                verdicts.MODERATE_UPDATE,
                verdicts.LARGE_SHARE,
                verdicts.MODERATE_SHARE,
            )
        ),
        "not_learning": (f"after {verdicts.UNCHANGED_READINGS} readings and {verdicts.UNCHANGED_STEPS} steps",),
    }.items():
        for value in values:
            assert value in rows[kind].replace(" %", "%"), (kind, value)


def test_when_a_row_grows_and_when_a_loss_is_worse_is_explained() -> None:
    text = " ".join(TEXT.split())
    for phrase in (
        f"if in {verdicts.NUM_RISES} readings in a row its norm grows by {verdicts.RISE - 1:.0%}".replace("%", " %"),
        f"in the first {verdicts.NUM_EARLY} readings",
        f"the last {memory.NUM_LOSSES} readings by {memory.SIGMAS:g} robust standard deviations",
    ):
        assert phrase in text, phrase
