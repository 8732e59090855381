"""docs/positions.md names every figure and every alert, and states the thresholds that are in force."""

import math
import re
from pathlib import Path

from report.metrics import STATISTICS, signals
from report.schemes import map_symbols
from train.watch import detectors
from train.watch.alert import ADVICE, RECOVERED

SIGNALS = signals(map_symbols({}))
TEXT = (Path(__file__).parents[3] / "docs" / "positions.md").read_text()


def test_every_figure_is_explained() -> None:
    named = set(re.findall(r"`([a-z0-9_]+)`", TEXT))
    assert STATISTICS.keys() <= named
    abbreviated = {f"{name}_{figure}" for name in ("content", "final") for figure in ("grad_norm", "update_ratio")}
    assert SIGNALS.keys() - abbreviated <= named
    assert set(STATISTICS) & set(SIGNALS) == set()


def test_every_alert_is_explained() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (?:head|model|layer) \| (.*) \|$", TEXT, re.MULTILINE))
    assert rows.keys() == ADVICE.keys() == RECOVERED.keys()
    for kind, values in {
        "collapse": (
            f"{detectors.COLLAPSED:.0%}",
            f"{detectors.RESTORED:.0%}",
            f"below {detectors.RESOLVED:g} ",
            f"{detectors.FLAT:.0%}",
        ),
        "explosion": (
            f"above {detectors.EXPLODED:g} sequence lengths",
            f"above {detectors.LARGE:g} with a `q99` - `q01` of {detectors.JUMPED:g} times",
            f"beyond 2^{math.log2(detectors.COARSE):g}",
            f"below {detectors.CONTAINED:g}",
        ),
        "rope": (f"{detectors.LIKE_INDEX}", f"{detectors.UNLIKE_INDEX}"),
        "dead_gradient": (f"{detectors.DEAD:.1%}", f"{detectors.ALIVE:.0%}"),
        "instability": tuple(
            f"{share:.0%}"
            for share in (
                detectors.LARGE_UPDATE,
                detectors.MODERATE_UPDATE,
                detectors.LARGE_SHARE,
                detectors.MODERATE_SHARE,
            )
        ),
        "not_learning": (f"after {detectors.UNCHANGED_READINGS} readings and {detectors.UNCHANGED_STEPS} steps",),
    }.items():
        for value in values:
            assert value in rows[kind].replace(" %", "%"), (kind, value)
