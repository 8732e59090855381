"""Sentences for what the detectors find: where, since when, how bad, what to try."""

import math
from collections.abc import Iterable

from train.watch.names import MAPS
from train.watch.reading import Reading

Place = tuple[int, ...]
"""() the model, (layer,), or (layer, head)."""

ENDED = {
    "collapse": "positions are spread out again",
    "explosion": "positions are back within bounds",
    "rope": "positions no longer follow the token index everywhere",
    "dead_gradient": "the gradient is back",
    "instability": "updates and gradients are moderate again",
    "not_learning": "positions have left their start",
}

ADVICE = {
    "collapse": "go back to a checkpoint before it with a lower optimizer.repo_lr_multiplier or optimizer.weight_decay",
    "explosion": "go back to a checkpoint before it with a lower optimizer.repo_lr_multiplier, or a warm-up "
    "(optimizer.repo_warmup_steps)",
    "rope": "compare the loss with positions=rope, and try a higher positions.start_layer or another seed",
    "dead_gradient": "look for a detached or frozen tensor in what was changed, and rule out the attention kernel with "
    "model.attention=plain",
    "instability": "give the fresh parameters a warm-up (optimizer.repo_warmup_steps) or a lower "
    "optimizer.repo_lr_multiplier",
    "not_learning": "raise optimizer.repo_lr_multiplier",
}


def name_places(places: Iterable[Place], reading: Reading) -> str:
    """Layers that are whole first, then heads of others: "layers 5, 7; layer 9 heads 0, 3"."""
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


def sentence(kind: str, where: str, since: int, symptom: str) -> str:
    """Of an episode that begins."""
    return f"{where}: since step {since}, {symptom}; {ADVICE[kind]}"


def end_sentence(kind: str, where: str, since: int, until: int) -> str:
    """Of one that ends: it lasted from step `since` to before step `until`."""
    return f"{where}: {ENDED[kind]} since step {until}, after {kind.replace('_', ' ')} since step {since}"


def collapse_symptom(spread: float, held: float) -> str:
    """Of the worst head."""
    return (
        f"positions have converged to nearly one value (98 % of them within {spread:.2g}, {spread / held:.2%} of what "
        "it was), which is NoPE"
    )


def explosion_symptom(ranges: list[float], distances: list[float], sequence_length: int) -> str:
    """`ranges`: of each head; `distances`: how far from zero the heads' lowest and highest positions lie."""
    if not all(map(math.isfinite, ranges + distances)):
        return "positions are not finite"
    if max(distances) > 1e3 * max(ranges):
        return f"positions lie up to {max(distances):.2g} from zero, where float32 is too coarse for angles"
    return f"positions are up to {max(ranges):.3g} apart in sequences of {sequence_length} tokens"


def rope_symptom(lowest: float) -> str:
    """`lowest`: the rank correlation, whatever its sign, of the head with the least."""
    return f"positions follow the token index (rank correlation at least {lowest:.3f} in every head), which is RoPE"


def dead_gradient_symptom(norms: list[tuple[str, tuple[float, float]]]) -> str:
    """`norms`: of each dead map, its name, its gradient norm, and that of its first readings."""
    name, (now, first) = min(norms, key=lambda item: item[1][0] / (item[1][1] or 1.0))
    maps = ", ".join(w for key, w in MAPS.items() if key in dict(norms))
    was = f"{first:.2g} at first" if first else "and none at first"
    return f"hardly any gradient reaches {maps} (norm {now:.2g} for {MAPS[name]}, {was})"


def instability_symptom(update_ratio: float, share: float) -> str:
    """Of the worst layer."""
    return f"an update changes {update_ratio:.0%} of a map, and the maps are {share:.0%} of the model's gradient"


def not_learning_symptom(spread: float, num_readings: int) -> str:
    """Of the layer with the widest spread."""
    return (
        f"positions have not left their start in {num_readings} readings: 98 % of them lie within {spread:.2g}, which "
        "no rotary frequency sees"
    )
