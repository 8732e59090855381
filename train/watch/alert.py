"""Alerts of the position watch, and their messages: where, since when, how bad, what to try."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from train.watch.reading import Reading

Place = tuple[int, ...]
"""() the model, (layer,), or (layer, head)."""

RECOVERED = {
    "not_finite": "the positions are finite again",
    "wrong_positions": "the positions depend on earlier tokens only again",
    "same_heads": "the heads differ again",
    "collapse": "the positions are spread out again",
    "rope": "not every head follows the token index any more",
    "explosion": "the positions are within bounds again",
    "dead_gradient": "the gradient is there again",
    "wrong_gradient": "the gradient is that of the loss again",
    "wrong_update": "updates are those of the optimizer again",
    "instability": "updates and gradients are moderate again",
    "not_learning": "the positions have started to spread",
}
"""What a recovery says, by the kind of the alert."""

ADVICE = {
    "not_finite": "look for an infinite weight or activation at or below it, and resume from a checkpoint before it",
    "wrong_positions": "look for what mixes tokens after the maps: packing, sequence parallelism, a changed kernel",
    "same_heads": "look for what averages or copies heads, or resume from a checkpoint before it",
    "collapse": "resume from a checkpoint before it with a lower optimizer.repo_lr_multiplier or "
    "optimizer.weight_decay",
    "rope": "compare the loss with positions=rope, and try a higher positions.start_layer or another seed",
    "explosion": "resume from a checkpoint before it with a lower optimizer.repo_lr_multiplier, or with a warm-up "
    "(optimizer.repo_warmup_steps)",
    "dead_gradient": "look for a detached or frozen tensor in what was changed, and rule out the attention kernel with "
    "model.attention=plain",
    "wrong_gradient": "look for a wrong backward pass or a hook that changes gradients, and rule out the kernel "
    "with model.attention=plain",
    "wrong_update": "look for what writes to the weights besides the optimizer (a callback, a hook), and resume "
    "from a checkpoint before it",
    "instability": "give the fresh parameters a warm-up (optimizer.repo_warmup_steps) or a lower "
    "optimizer.repo_lr_multiplier",
    "not_learning": "raise optimizer.repo_lr_multiplier",
}
"""What to try, by the kind of the alert."""


ONLY_REPORTED = ("rope", "not_learning", "wrong_update")
"""Kinds that no rollback follows: to learn more slowly would not help, as no weights are damaged or training does not
damage them.
"""


@dataclass(frozen=True)
class Alert:
    """One finding of a detector: something is wrong with the positions, or no longer is."""

    event: str
    """`alert`, or `recovery` when the failure is over."""
    kind: str
    """The detector's name: collapse, dead_gradient, ..."""
    where: str
    """Layers and heads: "layer 7 head 3", "layer 9", "all learned layers"."""
    since: int
    """Step of the first reading that showed it."""
    message: str
    """Where, since when, how bad, what to try; one sentence."""

    @property
    def is_new(self) -> bool:
        """Whether it begins an episode, rather than ends one."""
        return self.event == "alert"

    def as_plain(self) -> dict[str, Any]:
        """Returns the fields of its line in events.jsonl, without `event`."""
        return {name: value for name, value in asdict(self).items() if name != "event"}


def name_places(places: Iterable[Place], reading: Reading) -> str:
    """Returns whole layers first, then heads of others: "layers 5, 7; layer 9 heads 0, 3"."""
    whole: list[int] = []
    parts: list[str] = []
    heads_of: dict[int, list[int]] = {}
    for place in places:
        if len(place) < 2:
            whole += place or reading.heads.keys()
        else:
            heads_of.setdefault(place[0], []).append(place[1])
    for layer, heads in heads_of.items():
        if len(heads) == len(reading.heads[layer]["std"]):
            whole.append(layer)
        else:
            parts.append(f"layer {layer} head{'s' * (len(heads) > 1)} {', '.join(map(str, sorted(heads)))}")
    if len(whole) == len(reading.heads):
        return "all learned layers"
    if whole:
        parts.insert(0, f"layer{'s' * (len(whole) > 1)} {', '.join(map(str, sorted(whole)))}")
    return "; ".join(parts)


def alert_message(kind: str, where: str, since: int, symptom: str) -> str:
    """Returns the message of an alert."""
    return f"{where}: since step {since}, {symptom}; {ADVICE[kind]}"


def recovery_message(kind: str, where: str, since: int, until: int) -> str:
    """Returns the message of a recovery from a failure that lasted from step `since` to before step `until`."""
    return f"{where}: {RECOVERED[kind]} since step {until}, after {kind.replace('_', ' ')} since step {since}"


def wrong_positions_symptom(error: float) -> str:
    """Describes a layer whose positions change so much, relative to their spread, with later tokens."""
    return f"positions do not belong to their tokens: with other tokens later in the row they change by {error:.0%}"


def collapse_symptom(scheme: str, spreads: Sequence[tuple[float, float]], norms: Sequence[tuple[float, float]]) -> str:
    """Describes heads that have become like `scheme`: of each its spread and row norm now, and what they were."""
    spread, held = min(spreads, key=lambda pair: _share(*pair))
    norm, held_norm = min(norms, key=lambda pair: _share(*pair))
    if _share(norm, held_norm) < _share(spread, held):
        return (
            f"the head's row fades, and its positions with it (norm {norm:.2g}, {norm / held_norm:.0%} of the highest)"
        )
    return (
        f"positions are nearly equal, as in {scheme} (98 % of them lie within {spread:.2g}, {spread / held:.2%} of the "
        "earlier spread)"
    )


def _share(now: float, held: float) -> float:
    return now / held if held > 0 else 1.0


def explosion_symptom(
    ranges: Sequence[float],
    distances: Sequence[float],
    norms: Sequence[tuple[float, float]],
    sequence_length: int,
) -> str:
    """Describes heads with these ranges.

    `distances`: from zero to their lowest and highest positions; `norms`: row norms now and before, of heads that grow.
    """
    if max(distances) > 1e3 * max(ranges):
        return f"positions lie up to {max(distances):.2g} from zero, where float32 is too coarse for angles"
    text = f"positions are up to {max(ranges):.3g} apart in sequences of {sequence_length} tokens"
    if norms:
        norm, held = max(norms, key=lambda pair: pair[0] / pair[1])
        text += f", and the head's row grows faster and faster ({norm / held:.3g} times the highest norm before)"
    return text


def rope_symptom(lowest: float) -> str:
    """Describes a model whose heads have at least this |rank correlation|."""
    return f"positions follow the token index, as in RoPE (|rank correlation| at least {lowest:.3f} in every head)"


def dead_gradient_symptom(norms: Sequence[tuple[str, float, float]], symbols: Mapping[str, str]) -> str:
    """Describes dead maps: of each its name, its gradient norm, and the usual one."""
    name, now, first = min(norms, key=lambda norm: norm[1] / (norm[2] or 1.0))
    dead = {name for name, _, _ in norms}
    maps = ", ".join(symbol for name, symbol in symbols.items() if name in dead)
    was = f"{first:.2g} usually" if first else "and none before"
    return f"hardly any gradient reaches {maps} (norm {now:.2g} for {symbols[name]}, {was})"


def wrong_gradient_symptom(slopes: Sequence[float], residuals: Sequence[float], errors: Sequence[float]) -> str:
    """Describes wrong gradients: slopes and residuals of layers, errors of heads' rows."""
    if not slopes:
        return f"the gradient of the positions is not what arrives at the head's row (they differ by {max(errors):.0%})"
    slope = max(slopes, key=lambda slope: abs(slope - 1) if math.isfinite(slope) else 0.0)
    return (
        f"the gradient at the positions is not that of the loss (which changes by {slope:.2g} times the expected, and "
        f"the gradients of a row add up to {max(residuals):.1g} of their sizes instead of zero)"
    )


def wrong_update_symptom(error: float) -> str:
    """Describes a head whose row changes by so much of its norm without the optimizer."""
    return f"a step changes the head's row by {error:.2%} of its norm beyond what the optimizer does"


def instability_symptom(update_ratio: float, share: float) -> str:
    """Describes the worst layer."""
    return f"an update changes {update_ratio:.0%} of a map, and the maps are {share:.0%} of the model's gradient"


def not_learning_symptom(spread: float, num_readings: int) -> str:
    """Describes the layer with the widest spread."""
    return (
        f"positions have not spread in {num_readings} readings: 98 % of them lie within {spread:.2g}, which no rotary "
        "frequency resolves"
    )
