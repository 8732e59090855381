"""The README's pictures: a healthy run and a collapsing one, trained here and drawn from what they logged.

    python -m benchmarks.pictures      six to ten minutes on two cores; a finished run is not trained again

Both continue one tiny backbone with RePo on the sample mix. In the second, W_z loses a tenth of itself after every
update from the middle on, as if a faulty weight decay had got hold of it.
"""

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.step import configured
from common.json_lines import read_json_lines
from data.tools.sample import build_sample
from tests.train.watch.failing import Breaking, scale_final
from train.__main__ import train
from train.callbacks.callback import Callback
from train.config import RunConfig
from train.distributed import Ranks, leave
from train.errors import EXIT_OK
from train.report.panels import head_arrays
from train.report.pictures import ACCENT, ALERT, FAINT, INK, LINES, draw_curves, draw_heat, dress, new_figure, rgb
from train.run_folder import RunFolder
from train.watch.probes import ProbePositions, probe_files, read_probes

ROOT, CORPUS, OUT = Path("runs/pictures"), Path("corpora/sample"), Path("docs/pictures")
NUM_STEPS, FIRST_FAULT = 120, 60
SPREADS = (3e-4, 3.0)  # the range of the colors, in positions
NUM_HEADS, NUM_TOKENS = 2, 150  # of the table that are drawn: more cannot be told apart


def config(experiment: str, name: str, *overrides: str) -> RunConfig:
    """An experiment, at a size that a laptop trains in minutes."""
    positions = "rope" if experiment == "demo-backbone" else "repo"
    common = [f"name={name}", f"run_root={ROOT}", "wandb.mode=disabled", "logging.report_seconds=null"]
    common += ["global_batch_size=8", "data.num_streams=8", "checkpoint.interval=1000"]
    return configured(experiment, positions, [*common, *overrides])


def draw(folder: RunFolder, like: RunFolder, title: str, path: Path) -> None:
    """One picture: how far each head spreads its tokens at the end and over time, and where two of them put a table.

    Which two, and the limits of their axis, is as in the run `like`, with which the picture is to be compared.
    """
    rows = [(row["step"], head_arrays(row)) for row in read_json_lines(folder.metrics)]
    readings = [(step, layers, arrays["std"]) for step, (layers, arrays) in rows if "std" in arrays]
    alerts = [event for event in read_json_lines(folder.events) if event["event"] == "alert"]
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
    Image.fromarray(rgb(figure)).quantize(200).save(path, optimize=True)  # a third of the bytes, and nobody sees it
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def last_probes(folder: RunFolder) -> ProbePositions:
    """Where a run puts the probe texts at its end."""
    step, file = list(probe_files(folder.probes).items())[-1]
    probes = read_probes(step, file)
    assert probes is not None, file
    return probes


def words_of(alert: dict[str, Any]) -> str:
    """What was found, without what to do about it."""
    return f"alert, step {alert['step']}: {alert['message'].partition(' (')[0]}"


def draw_table(axes: Any, probes: ProbePositions, like: ProbePositions) -> None:
    """Where two heads of the middle layer put the table's tokens, and where its rows end."""
    middle = len(probes.layers) // 2
    z_ht, like_ht = (one.z["table"][middle, :, :NUM_TOKENS] for one in (probes, like))
    heads = np.sort(like_ht.std(-1).argsort()[-NUM_HEADS:])
    title = (
        f"where two heads of layer {probes.layers[middle]} put a table, whose rows end at the lines, step {probes.step}"
    )
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
    """The spread of every head over the steps, and where alerts were raised."""
    for row in range(len(layers)):
        axes.plot(steps, spread_slh[:, row], color=LINES(row / max(1, len(layers) - 1)), linewidth=1.1)
    for alert in alerts:
        axes.axvline(alert["step"], color=ALERT, linewidth=1.2, linestyle="--")
    axes.set_yscale("log")
    axes.set_ylim(*SPREADS)
    dress(axes, "spread of every head over the steps", "step", "")
    axes.grid(color="#efeae0")


def main() -> int:
    """Train what is not trained, and draw; returns the exit code."""
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
        draw(RunFolder.of(run), RunFolder(ROOT / "healthy"), title, OUT / f"{name}.png")
    return EXIT_OK


if __name__ == "__main__":
    leave(main())
