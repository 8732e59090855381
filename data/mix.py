"""What a run takes from each source: its share, the passes over it, and what to say about them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

SMALL = 0.01  # epochs that are not worth their digits
MARGIN = 1.05  # above an estimate of the passes, before it is an error


@dataclass(frozen=True)
class SourceMix:
    """The part of one source in the mix."""

    name: str
    """Of the source."""
    share: float
    """Of all tokens, from 0 to 1."""
    num_tokens: float | None
    """In one epoch; None: not known before its files are read."""
    is_exact: bool
    """Whether that is counted, not estimated."""
    max_epochs: float | None = None
    """As the config has it."""

    def epochs(self, planned: int) -> float | None:
        """Returns the passes over the source in a run of so many tokens; None: not known."""
        return self.share * planned / self.num_tokens if self.num_tokens else None


def describe_mix(mix: Sequence[SourceMix], planned: int, left_out: Sequence[str] = ()) -> Iterator[str]:
    """Yields the lines that say what a run of `planned` tokens takes from each source, by falling share."""
    yield f"data: {human(planned)} tokens from {len(mix)} source{'s' if len(mix) > 1 else ''}"
    width = max(len(source.name) for source in mix)
    for source in sorted(mix, key=lambda source: -source.share):
        line = f"  {source.name:<{width}}  {source.share:6.2%}  {human(source.share * planned):>7} tokens"
        epochs, about = source.epochs(planned), "" if source.is_exact else "about "
        if epochs is None:
            yield f"{line}; how many it has is known once its files are read"
        else:
            passes = f"{about}{epochs:.3g}" if epochs >= SMALL else f"under {SMALL}"
            yield f"{line}, {passes} epochs of {human(source.num_tokens or 0)}"
    if left_out:
        yield f"  left out, as their weight is 0: {', '.join(left_out)}"


def too_many_epochs(mix: Sequence[SourceMix], planned: int, weights: Mapping[str, float]) -> str | None:
    """Returns what is wrong and what to type where the plan needs more passes than a source allows; None: nothing."""
    for source in mix:
        epochs = source.epochs(planned)
        if source.max_epochs is None or epochs is None:
            continue
        if epochs <= source.max_epochs * (1.0 if source.is_exact else MARGIN):
            continue
        most = source.max_epochs / epochs * source.share
        others = sum(weight for name, weight in weights.items() if name != source.name)
        weight = f"data.sources.{source.name}.weight={most / (1 - most) * others:.3g}, " if others else ""
        about = "" if source.is_exact else "about "
        return (
            f"data.sources.{source.name}.max_epochs={source.max_epochs:g}: {source.share:.2%} of {human(planned)} "
            f"tokens are {about}{epochs:.3g} epochs of its {human(source.num_tokens or 0)}; use {weight}fewer "
            "max_steps, more files, or a higher max_epochs"
        )
    return None


class EpochWatch:
    """Says, once each, that a source begins again, and that it does so more often than it should."""

    def __init__(self, names: Sequence[str], limits: Mapping[str, float | None], epochs: Sequence[int]) -> None:
        """Begins at `epochs`, of which nothing is said."""
        self._names = names
        self._limits = limits
        self._epochs = list(epochs)

    def lines(self, epochs: Sequence[int], step: int) -> list[str]:
        """Returns what to say after a step that has reached these epochs, counted from 0."""
        begun = [number for number, epoch in enumerate(epochs) if epoch > self._epochs[number]]
        if not begun:
            return []
        self._epochs = list(epochs)
        if len(begun) == len(self._names) > 1 and len(set(epochs)) == 1:
            return [f"data: all sources begin again in step {step}: epoch {epochs[0] + 1}"]
        lines = []
        for number in begun:
            name, epoch = self._names[number], epochs[number]
            line = f"data: source {name} begins again in step {step}: epoch {epoch + 1}"
            limit = self._limits.get(name)
            more = f", and data.sources.{name}.max_epochs is {limit:g}" if limit is not None and epoch >= limit else ""
            lines.append(line + more)
        return lines


def human(number: float) -> str:
    """Returns a number in short form: 1234567 -> 1.23M."""
    for unit in ("", "k", "M", "B", "T"):
        if abs(number) < 999.5 or unit == "T":
            return f"{number:.3g}{unit}"
        number /= 1000
    raise AssertionError("unreachable")
