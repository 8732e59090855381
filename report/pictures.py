"""Positions as images: heat maps of layers by heads, and z against the token index. For W&B and for the README.

Drawn without pyplot, which keeps every figure in memory and needs a display. The colors are those of the page.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, LinearSegmentedColormap, LogNorm, Normalize, SymLogNorm
from matplotlib.figure import Figure

from report.packing import evenly_spaced
from report.probes import ProbePositions

INK, MUTED, GRID, ACCENT, FAINT, ALERT = "#23201c", "#756e64", "#efeae0", "#1f6f78", "#b9b0a2", "#c2402a"
PAPER = "#fffefb"
SEQUENTIAL = LinearSegmentedColormap.from_list("sequential", ["#f3efe6", "#e9c58c", "#d9825b", "#93386b", "#2c1a4d"])
DIVERGING = LinearSegmentedColormap.from_list("diverging", ["#1f6f78", "#f3efe6", "#b8432f"])
LINES = LinearSegmentedColormap.from_list("lines", ["#e9c58c", "#d9825b", "#93386b"])
LINEAR_BELOW = 0.1  # positions; above it, signed colors are logarithmic
NUM_LAYERS = 4  # in the picture of a text


def new_figure(width: float, height: float) -> Figure:
    """Returns an empty figure; width and height in inches."""
    figure = Figure(figsize=(width, height), dpi=100, facecolor=PAPER)
    FigureCanvasAgg(figure)
    return figure


def to_pixels(figure: Figure) -> np.ndarray:
    """Returns the drawn figure as uint8 [height, width, 3]."""
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def style_axes(axes: Axes, title: str, x: str, y: str) -> None:
    """Sets the title, the labels and the style that all axes share."""
    axes.set_facecolor(PAPER)
    axes.set_title(title, loc="left", fontsize=9.5, color=INK)
    axes.set_xlabel(x, fontsize=8.5, color=MUTED)
    axes.set_ylabel(y, fontsize=8.5, color=MUTED)
    axes.tick_params(labelsize=8, colors=MUTED, length=2)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_visible(False)


def draw_heat(
    axes: Axes, values_lh: np.ndarray, layers: Sequence[int], title: str, limits: tuple[float, float] | None = None
) -> None:
    """Draws a heat map with its color bar; zero is pale among signed numbers, wide ranges have logarithmic colors.

    `limits`: the range of the colors; None: that of the values.
    """
    norm, colors = _colors(values_lh if limits is None else np.array(limits))
    image = axes.imshow(values_lh, norm=norm, cmap=colors, aspect="auto", origin="lower", interpolation="nearest")
    style_axes(axes, title, "head", "layer")
    shown = evenly_spaced(range(len(layers)), 12)
    axes.set_yticks(shown, [str(layers[index]) for index in shown])
    axes.set_xticks(evenly_spaced(range(values_lh.shape[1]), 16))
    figure = axes.get_figure(root=True)
    assert figure is not None
    bar = figure.colorbar(image, ax=axes, pad=0.02, fraction=0.05)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7.5, colors=MUTED, length=2)
    bar.ax.tick_params(which="minor", length=0)


def draw_curves(axes: Axes, z_ht: np.ndarray, title: str) -> None:
    """Draws the positions of one text in every head of a layer."""
    for head, z_t in enumerate(z_ht):
        axes.plot(z_t, color=LINES(head / max(1, len(z_ht) - 1)), linewidth=0.8)
    style_axes(axes, title, "token", "z")
    axes.grid(color=GRID)
    axes.margins(x=0.01)


def heat_map(values_lh: np.ndarray, layers: Sequence[int], title: str, limits: tuple[float, float]) -> np.ndarray:
    """Returns [L, H] as an image, uint8 [height, width, 3]."""
    figure = new_figure(4.6, 3.4)
    figure.subplots_adjust(left=0.11, right=0.91, bottom=0.14, top=0.91)
    draw_heat(figure.subplots(), values_lh, layers, title, limits)
    return to_pixels(figure)


def probe_curves(probes: ProbePositions, text: str) -> np.ndarray:
    """Returns z against the token index of a text in up to NUM_LAYERS layers, as uint8 [height, width, 3]."""
    z_lht = probes.z[text]
    shown = evenly_spaced(range(len(probes.layers)), NUM_LAYERS)
    figure = new_figure(8, 1.6 * len(shown))
    figure.subplots_adjust(left=0.07, right=0.99, bottom=0.28 / len(shown), top=1 - 0.16 / len(shown), hspace=0.3)
    rows = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for axes, index in zip(rows, reversed(shown), strict=True):
        draw_curves(axes, z_lht[index], f"layer {probes.layers[index]}")
        axes.label_outer()
    return to_pixels(figure)


def _colors(values: np.ndarray) -> tuple[Normalize, Colormap]:
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    if low < 0 < high:
        limit = max(-low, high)
        return SymLogNorm(LINEAR_BELOW, vmin=-limit, vmax=limit) if limit > 50 else Normalize(-limit, limit), DIVERGING
    if low > 0 and high / low > 50:
        return LogNorm(low, high), SEQUENTIAL
    return Normalize(low, high if high > low else low + 1e-9), SEQUENTIAL
