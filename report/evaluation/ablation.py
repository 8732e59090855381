"""Loss without the learned positions of upper layers: evaluations/NAME/ablation/, of `python -m evaluate ablate`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from report.drawing import Point, figure, lines, panels, section, table
from report.evaluation.folder import Evaluated, colors
from report.evaluation.means import Mean

FOLDER = "ablation"
REPLACEMENTS = ("index", "constant")
HEAD = ["length", "model", "texts", "from layer", "NLL as it is", "with the index", "with a constant"]
LEAD = (
    "The learned positions of all layers from one on upward are replaced, without training, by the index (as RoPE) or "
    "by a constant (as NoPE), and the loss of the same texts is taken again: nats per token more than before, paired "
    "by text. Zero says that the loss does not depend on these positions beyond such a replacement. It is not what a "
    "model that was trained so would lose: the weights have grown used to the positions that they had."
)


@dataclass(frozen=True)
class Ablated:
    """The texts of a model at a length."""

    folder: Evaluated
    length: int
    rows: list[dict[str, Any]]

    @property
    def layers(self) -> list[str]:
        """The layers from which positions were replaced, bottom first."""
        return sorted(self.rows[0]["replaced"][REPLACEMENTS[0]], key=int)

    def difference(self, by: str, layer: str) -> Mean:
        """Returns the loss with positions replaced from this layer on, minus the loss as it is, over texts."""
        return Mean.of([row["replaced"][by][layer] - row["nll"] for row in self.rows])


def read_ablations(folders: Sequence[Evaluated]) -> list[Ablated]:
    """Returns what there is, in the order of lengths and folders."""
    found = []
    for folder in folders:
        for path in (folder.path / FOLDER).glob("text-*.jsonl"):
            rows = [row for row in folder.rows(f"{FOLDER}/{path.name}") if "replaced" in row]
            if rows:
                found.append(Ablated(folder, int(path.stem.removeprefix("text-")), rows))
    place = {each.name: number for number, each in enumerate(folders)}
    return sorted(found, key=lambda each: (each.length, place[each.folder.name]))


def ablation_rows(found: Sequence[Ablated]) -> list[list[str]]:
    """Returns the cells under `HEAD`."""
    cells = []
    for each in found:
        start = [str(each.length), each.folder.name, str(len(each.rows))]
        nll = Mean.of([row["nll"] for row in each.rows]).written(3)
        cells += [
            [*start, layer, nll, *(_signed(each.difference(by, layer)) for by in REPLACEMENTS)] for layer in each.layers
        ]
    return cells


def ablation(folders: Sequence[Evaluated]) -> str | None:
    """Returns the section, or None if no folder has ablations."""
    found = read_ablations(folders)
    if not found:
        return None
    figures = []
    for length in dict.fromkeys(each.length for each in found):
        own = [each for each in found if each.length == length]
        layers = sorted({layer for each in own for layer in each.layers}, key=int)
        for by in REPLACEMENTS:
            series = {}
            for each in own:
                means = {layer: each.difference(by, layer) for layer in each.layers}
                series[each.folder.name] = [Point(layer, mean.value, mean.error) for layer, mean in means.items()]
            drawn = lines(series, layers, colors=colors(folders), show="{:+.4f}".format)
            figures.append(figure(f"{length} tokens: NLL with the {by} from this layer up, minus NLL as it is", drawn))
    return section("Layers without their positions", LEAD, panels(figures) + table(HEAD, ablation_rows(found)))


def _signed(mean: Mean) -> str:
    return ("+" if mean.value >= 0 else "") + mean.written(4)
