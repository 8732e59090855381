"""The README's pictures: a healthy run and a collapsing one, trained here and drawn from what they logged.

    python -m benchmarks.pictures      six to ten minutes on two cores; a finished run is not trained again

Both continue one tiny backbone with RePo on the sample mix. In the second, W_z is multiplied by 0.9 after every update
from the middle on, as by a wrong weight decay.
"""

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.step import configured
from data.tools.sample import build_sample
from report.metrics import STEP, MetricTable
from report.panels import head_arrays
from report.pictures import (
    ACCENT,
    ALERT,
    FAINT,
    GRID,
    INK,
    LINES,
    draw_curves,
    draw_heat,
    new_figure,
    style_axes,
    to_pixels,
)
from report.probes import ProbePositions, probe_files, read_probes
from report.run_folder import RunFiles
from tests.train.watch.failing import Breaking, scale_final
from train.__main__ import train
from train.callbacks.callback import Callback
from train.config import RunConfig
from train.distributed import Ranks, leave
from train.errors import EXIT_OK
from train.run_folder import RunFolder

ROOT, CORPUS, OUT = Path("runs/pictures"), Path("corpora/sample"), Path("docs/pictures")
NUM_STEPS, FIRST_FAULT = 120, 60
SPREADS = (3e-3, 30.0)  # the range of the colors, in positions
NUM_HEADS, NUM_TOKENS = 2, 150  # of the table that are drawn: more lines could not be read


def config(experiment: str, name: str, *overrides: str) -> RunConfig:
    """Returns the config of an experiment, at a size that a laptop trains in minutes."""
    positions = "rope" if experiment == "demo-backbone" else "repo"
    common = [f"name={name}", f"run_root={ROOT}", "wandb.mode=disabled", "logging.report_seconds=null"]
    common += ["global_batch_size=8", "data.num_streams=8", "checkpoint.interval=1000"]
    return configured(experiment, positions, [*common, *overrides])


def draw(folder: RunFiles, like: RunFiles, title: str, path: Path) -> None:
    """Draws the spread of each head at the end and over the steps, and the positions of a table in two heads.

    The two heads, and the limits of their axis, are those of the run `like`, so that the pictures can be compared.
    """
    table = MetricTable.of(folder.read_config())
    rows = [(row[STEP], head_arrays(row, table)) for row in folder.read_metrics()]
    readings = [(step, layers, arrays["std"]) for step, (layers, arrays) in rows if "std" in arrays]
    alerts = [event for event in folder.read_events() if event["event"] == "alert"]
    steps, (last, layers, spread) = [step for step, _, _ in readings], readings[-1]
    figure = new_figure(10.4, 7.2)
    grid = figure.add_gridspec(2, 2, left=0.06, right=0.965, bottom=0.23, top=0.88, hspace=0.42, wspace=0.16)
    figure.text(0.06, 0.94, title, fontsize=15, color=INK, family="serif", weight="bold")
    heat, history, curves = (figure.add_subplot(cell) for cell in (grid[0, 0], grid[0, 1], grid[1, :]))
    draw_heat(heat, spread.clip(*SPREADS), layers, f"spread of positions, step {last}", SPREADS)
    draw_history(history, steps, np.array([values for _, _, values in readings]), layers, alerts)
    draw_table(curves, last_probes(folder), last_probes(like))
    said = "\n".join(["\n".join(textwrap.wrap(words, 155)) for words in map(words_of, alerts)] or ["no alert"])
    figure.text(0.06, 0.15, said, fontsize=8.5, color=ALERT if alerts else ACCENT, va="top", linespacing=1.35)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(to_pixels(figure)).quantize(200).save(
        path, optimize=True
    )  # a third of the bytes, without a visible difference
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def last_probes(folder: RunFiles) -> ProbePositions:
    """Returns the last positions of the probe texts of a run."""
    step, file = list(probe_files(folder.probes).items())[-1]
    probes = read_probes(step, file)
    assert probes is not None, file
    return probes


def words_of(alert: dict[str, Any]) -> str:
    """Returns the first part of an alert's message: where, since when and what."""
    return f"alert, step {alert['step']}: {alert['message'].partition(' (')[0]}"


def draw_table(axes: Any, probes: ProbePositions, like: ProbePositions) -> None:
    """Draws the positions of the table's tokens in two heads of the middle layer, with a line where a row ends."""
    middle = len(probes.layers) // 2
    z_ht, like_ht = (one.z["table"][middle, :, :NUM_TOKENS] for one in (probes, like))
    heads = np.sort(like_ht.std(-1).argsort()[-NUM_HEADS:])
    layer, step = probes.layers[middle], probes.step
    title = f"positions of a table in two heads of layer {layer}, step {step}; its rows end at the lines"
    for token, piece in enumerate(probes.pieces["table"][:NUM_TOKENS]):
        if "\n" in piece:
            axes.axvline(token, color=FAINT, linewidth=1)
    draw_curves(axes, z_ht[heads], title)
    for head, line in zip(heads, axes.lines[-NUM_HEADS:], strict=True):
        line.set(label=f"head {head}", linewidth=1.4)
    low, high = like_ht[heads].min(), like_ht[heads].max()
    axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    axes.grid(visible=False, axis="x")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=NUM_HEADS, frameon=False, fontsize=8.5, borderaxespad=0)


def draw_history(
    axes: Any, steps: Sequence[int], spread_slh: np.ndarray, layers: Sequence[int], alerts: list[dict[str, Any]]
) -> None:
    """Draws the spread of every head over the steps, with a line at each alert."""
    for row in range(len(layers)):
        axes.plot(steps, spread_slh[:, row], color=LINES(row / max(1, len(layers) - 1)), linewidth=1.1)
    for alert in alerts:
        axes.axvline(alert["step"], color=ALERT, linewidth=1.2, linestyle="--")
    axes.set_yscale("log")
    axes.set_ylim(*SPREADS)
    style_axes(axes, "spread of every head over the steps", "step", "")
    axes.grid(color=GRID)


def main() -> int:
    """Trains what is not trained yet, and draws; returns the exit code."""
    argparse.ArgumentParser(
        prog="python -m benchmarks.pictures", description=(__doc__ or "").split("\n")[0]
    ).parse_args()
    build_sample(CORPUS)
    ranks = Ranks()
    ranks.join()
    backbone = config("demo-backbone", "backbone", f"max_steps={NUM_STEPS // 2}")
    repo = [f"init_from={RunFolder.of(backbone).path}", f"max_steps={NUM_STEPS}", "checkpoint.export_hf=false"]
    runs: dict[str, tuple[str, list[Callback]]] = {
        "healthy": ("A healthy run", []),
        "collapsing": ("A collapsing run", [Breaking(scale_final(0.9), range(FIRST_FAULT, NUM_STEPS + 1))]),
    }
    if code := train(backbone, ranks):
        return code
    for name, (title, callbacks) in runs.items():
        run = config("demo", name, *repo)
        if code := train(run, ranks, callbacks):
            return code
        draw(RunFolder.of(run), RunFiles(ROOT / "healthy"), title, OUT / f"{name}.png")
    return EXIT_OK


if __name__ == "__main__":
    leave(main())
