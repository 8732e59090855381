"""What counts as a failure of learned positions, and when it is reported.

A detector gives each place (a head, a layer, or the whole model) a verdict per reading: bad, well, or neither. There is
a gap between the thresholds for bad and well; an episode begins after CONFIRM bad readings in a row and ends after
CONFIRM that are well. So a value near a threshold does not raise alert after alert. Each episode is reported once
when it begins and once when it ends; places that begin at the same reading share one alert. The detectors are a pure
function of the readings, and their state is plain JSON.

RePo starts close to NoPE, with positions that hardly differ, and the scale of its gradients depends on the model. So a
head or a map is compared with what it showed earlier in the same run. A spread is q99 - q01, which single far tokens do
not change:

    collapse       head    the spread fell below a tenth of the highest that it held for two readings, and no rotary
                           frequency resolves it any more, or neighbours share a position; or it fell below a hundredth
    rope           model   every head of every layer follows the token index: |rank correlation| above 0.95
    explosion      head    the range exceeds twice the sequence length, which is RoPE's own range; or a quarter of it,
                           and the spread is twenty times what it held; or |z| is so large that float32 positions are
                           1/8 apart, or not finite
    dead_gradient  layer   the gradient of one of its maps is zero, or a thousandth of that of its first readings
    instability    layer   an update changes half of a map, or its maps are 90 % of the whole model's gradient
    not_learning   layer   no rotary frequency ever resolved a head, and for 20 readings and 1000 steps after the
                           warm-up the widest spread has not doubled

An earlier line explains a later one: where the heads of a layer have collapsed or exploded, or the model has become
RoPE, the gradients change as a consequence, so no alert about them is raised; nor is the wide range of a head that
follows the token index an explosion.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from report.metrics import GRADIENT, GRADIENT_SHARE, UPDATE, map_signal
from train.watch.alert import (
    Alert,
    Place,
    alert_message,
    collapse_symptom,
    dead_gradient_symptom,
    explosion_symptom,
    instability_symptom,
    name_places,
    not_learning_symptom,
    recovery_message,
    rope_symptom,
)
from train.watch.reading import Reading

CONFIRM = 2  # readings in a row that begin or end an episode
UNCHANGED_READINGS, UNCHANGED_STEPS = 20, 1000  # after which a layer whose spread has not doubled does not learn
DOUBLED = 2.0  # times the spread from which an unchanged layer is counted: it has grown
NUM_FIRST = 3  # readings whose median gradient later ones are compared with
COLLAPSED, RESTORED = 0.1, 0.2  # of the spread that a head has held
VANISHED = 0.01  # of the same: a collapse, whatever frequencies resolve
FLAT = 0.95  # constant_share of a head whose neighbours share a position
RESOLVED = 0.1  # spread that turns the fastest rotary frequency, one radian per position, by 0.1 rad
EXPLODED, CONTAINED = 2.0, 1.0  # range, in sequence lengths
JUMPED, LARGE = 20.0, 0.25  # times the spread that a head has held, with a range of so many sequence lengths
COARSE = 2.0**20  # |z| from which float32 positions are 1/8 apart
LIKE_INDEX, UNLIKE_INDEX = 0.95, 0.9  # |rank correlation|
DEAD, ALIVE = 1e-3, 1e-2  # of the gradient norm of the first readings
LARGE_UPDATE, MODERATE_UPDATE = 0.5, 0.25  # of a map's norm, in one step
LARGE_SHARE, MODERATE_SHARE = 0.9, 0.7  # of the model's gradient norm

Verdicts = dict[Place, bool | None]
"""True: bad; False: well; None: neither, or not known."""


@dataclass
class Episode:
    """What one detector has seen of one place."""

    num_bad: int = 0
    """Bad readings in a row."""
    num_well: int = 0
    """Readings in a row that are well."""
    since: int = 0
    """Step of the first bad reading of the row, or of the episode if it has begun."""
    until: int = 0
    """Step of the first reading of the row that is well."""
    is_open: bool = False
    """Whether it has begun and not ended."""

    def observe(self, is_bad: bool | None, step: int) -> bool | None:
        """Returns True if the episode begins with this reading, False if it ends, else None."""
        self.num_bad = self.num_bad + 1 if is_bad else 0
        self.num_well = self.num_well + 1 if is_bad is False else 0
        if self.num_bad == 1 and not self.is_open:
            self.since = step
        if self.num_well == 1 and self.is_open:
            self.until = step
        if (self.num_well if self.is_open else self.num_bad) < CONFIRM:
            return None
        self.is_open = not self.is_open
        return self.is_open


@dataclass
class Memory:
    """What the layers and heads showed earlier in the run. Plain JSON in checkpoints, so keys of layers are strings."""

    still: dict[str, list[float]] = field(default_factory=dict)
    """Layer -> step and widest spread since which it has not doubled, and the number of readings since then."""
    last_spread: dict[str, list[float]] = field(default_factory=dict)
    """Layer -> spread of each head at the last reading."""
    held_spread: dict[str, list[float]] = field(default_factory=dict)
    """Layer -> of each head, the highest spread that two readings in a row reached."""
    was_seen: dict[str, bool] = field(default_factory=dict)
    """Layer -> whether the spread of one of its heads was ever above RESOLVED."""
    first_gradients: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    """Layer -> map -> gradient norms of its first readings."""

    def add(self, reading: Reading, exploded: Collection[Place], warmup: int) -> None:
        """Adds a reading after its verdicts.

        The spread of `exploded` heads (layer, head) does not count as held, and a dead gradient is none of the first.
        Up to step `warmup` no layer counts as unchanged.
        """
        for layer in reading.heads:
            key = str(layer)
            spread = [0.0 if (layer, head) in exploded else width for head, width in enumerate(reading.spreads(layer))]
            last = self.last_spread.get(key, [0.0] * len(spread))
            held = self.held_spread.get(key, [0.0] * len(spread))
            self.held_spread[key] = [max(h, min(a, b)) for h, a, b in zip(held, last, spread, strict=True)]
            self.last_spread[key] = spread
            widest = max(reading.spreads(layer))
            if reading.step > warmup:
                since, start, count = self.still.get(key, [reading.step, widest, 0])
                has_grown = widest > DOUBLED * start
                self.still[key] = [reading.step, widest, 1] if has_grown else [since, start, count + 1]
            self.was_seen[key] = self.was_seen.get(key, False) or widest > RESOLVED
            gradients = self.first_gradients.setdefault(key, {name: [] for name in reading.maps[layer]})
            for name, norms in gradients.items():
                norm = reading.signals[layer][map_signal(name, GRADIENT)]
                is_dead = len(norms) > 0 and norm < DEAD * median(norms)
                if len(norms) < NUM_FIRST and math.isfinite(norm) and not is_dead:
                    norms.append(norm)

    def held(self, layer: int, head: int) -> float:
        """Returns the spread that a head is compared with; 0 if none is known yet."""
        return self.held_spread[str(layer)][head] if str(layer) in self.held_spread else 0.0

    def first_gradient(self, layer: int, name: str) -> float:
        """Returns the gradient norm that a map is compared with; 0 if none is known yet."""
        norms = self.first_gradients.get(str(layer), {}).get(name)
        return median(norms) if norms else 0.0


class Detectors:
    """Readings in, alerts out."""

    def __init__(self, sequence_length: int, warmup_steps: int = 0) -> None:
        self._warmup = warmup_steps
        self._length = sequence_length
        self._memory = Memory()
        self._episodes: dict[tuple[str, Place], Episode] = {}

    @property
    def num_open(self) -> int:
        """Number of episodes that last."""
        return sum(episode.is_open for episode in self._episodes.values())

    def observe(self, reading: Reading) -> list[Alert]:
        """Returns what begins and what ends with this reading, in the order of the detectors."""
        alerts: list[Alert] = []
        verdicts = self._verdicts(reading)
        for kind, places in verdicts.items():
            begun: dict[Place, Episode] = {}
            ended: dict[Place, Episode] = {}
            for place, is_bad in places.items():
                episode = self._episodes.setdefault((kind, place), Episode())
                if (begins := episode.observe(is_bad, reading.step)) is not None:
                    (begun if begins else ended)[place] = episode
            if kind == "not_learning":
                for (layer,), episode in begun.items():
                    episode.since = int(self._memory.still[str(layer)][0])
            if begun:
                where, since = name_places(begun, reading), min(episode.since for episode in begun.values())
                message = alert_message(kind, where, since, self._symptom(kind, list(begun), reading))
                alerts.append(Alert("alert", kind, where, since, message))
            if ended:
                where, since = name_places(ended, reading), min(episode.since for episode in ended.values())
                until = min(episode.until for episode in ended.values())
                alerts.append(Alert("recovery", kind, where, until, recovery_message(kind, where, since, until)))
        self._episodes = {key: episode for key, episode in self._episodes.items() if episode.is_open or episode.num_bad}
        exploded = {place for place, is_bad in verdicts["explosion"].items() if is_bad}
        self._memory.add(reading, exploded, self._warmup)
        return alerts

    def state_dict(self) -> dict[str, Any]:
        """Returns the state as plain JSON."""
        places = sorted(self._episodes.items(), key=lambda item: item[0])
        episodes = [[kind, list(place), asdict(episode)] for (kind, place), episode in places]
        return {"memory": asdict(self._memory), "episodes": episodes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self._memory = Memory(**state["memory"])
        self._episodes = {(kind, tuple(place)): Episode(**fields) for kind, place, fields in state["episodes"]}

    def _verdicts(self, reading: Reading) -> dict[str, Verdicts]:
        places = [(layer, head) for layer, values in reading.heads.items() for head in range(len(values["std"]))]
        collapse: Verdicts = {place: self._is_collapsed(*place, reading) for place in places}
        rope = _is_rope(reading)
        explosion: Verdicts = {place: self._is_exploded(*place, reading) for place in places}
        gradient: Verdicts = {}
        instability: Verdicts = {}
        learning: Verdicts = {}
        for layer in reading.heads:
            own = [place for place in places if place[0] == layer]
            is_explained = rope or all(collapse[place] for place in own) or any(explosion[place] for place in own)
            gradient[layer,] = None if is_explained else self._is_dead(layer, reading)
            instability[layer,] = None if is_explained else _is_unstable(layer, reading)
            learning[layer,] = None if is_explained or gradient[layer,] else self._is_unchanged(layer, reading)
        return {
            "collapse": collapse,
            "rope": {(): rope},
            "explosion": explosion,
            "dead_gradient": gradient,
            "instability": instability,
            "not_learning": learning,
        }

    def _is_collapsed(self, layer: int, head: int, reading: Reading) -> bool | None:
        spread, flat = reading.spreads(layer)[head], reading.heads[layer]["constant_share"][head]
        held = self._memory.held(layer, head)
        if spread < VANISHED * held or (spread < COLLAPSED * held and (spread < RESOLVED or flat > FLAT)):
            return True
        return False if spread > RESTORED * held and spread > RESOLVED else None

    def _is_exploded(self, layer: int, head: int, reading: Reading) -> bool | None:
        low, high, extent, order = (
            reading.heads[layer][name][head] for name in ("min", "max", "range", "rank_correlation")
        )
        held = self._memory.held(layer, head)
        is_rope = abs(order) > LIKE_INDEX and extent <= CONTAINED * self._length
        jumped = 0 < JUMPED * held < reading.spreads(layer)[head] and extent > LARGE * self._length and not is_rope
        if jumped or not (extent <= EXPLODED * self._length and max(-low, high) <= COARSE):  # a NaN is bad too
            return True
        return False if extent < CONTAINED * self._length and max(-low, high) < COARSE / 2 else None

    def _is_dead(self, layer: int, reading: Reading) -> bool | None:
        norms = self._gradients(layer, reading)
        if not all(math.isfinite(now) for _, now, _ in norms):
            return None
        if any(_is_dead_norm(now, first) for _, now, first in norms):
            return True
        return False if all(now > ALIVE * first for _, now, first in norms) else None

    def _gradients(self, layer: int, reading: Reading) -> list[tuple[str, float, float]]:
        """Returns each map of a layer with its gradient norm now, and that of the first readings."""
        now = reading.signals[layer]
        return [
            (name, now[map_signal(name, GRADIENT)], self._memory.first_gradient(layer, name))
            for name in reading.maps[layer]
        ]

    def _is_unchanged(self, layer: int, reading: Reading) -> bool | None:
        widest = max(reading.spreads(layer))
        if self._memory.was_seen.get(str(layer)) or widest > RESOLVED:
            return False
        since, start, count = self._memory.still.get(str(layer), (reading.step, 0.0, 0))
        is_long = count >= UNCHANGED_READINGS and reading.step - since >= UNCHANGED_STEPS
        return True if is_long and widest <= DOUBLED * start else None

    def _symptom(self, kind: str, places: list[Place], reading: Reading) -> str:
        """Describes how bad it is at the worst of the places."""
        heads, signals = reading.heads, reading.signals
        if kind == "collapse":
            pairs = [(reading.spreads(layer)[head], self._memory.held(layer, head)) for layer, head in places]
            return collapse_symptom(*min(pairs, key=lambda pair: pair[0] / pair[1]))
        if kind == "explosion":
            ends = [abs(heads[layer][name][head]) for layer, head in places for name in ("min", "max")]
            ranges = [heads[layer]["range"][head] for layer, head in places]
            return explosion_symptom(ranges, ends, self._length)
        if kind == "rope":
            return rope_symptom(min(map(abs, (r for values in heads.values() for r in values["rank_correlation"]))))
        layers = [place[0] for place in places]
        if kind == "dead_gradient":
            norms = [norm for layer in layers for norm in self._gradients(layer, reading)]
            symbols = {name: symbol for layer in layers for name, symbol in reading.maps[layer].items()}
            return dead_gradient_symptom([norm for norm in norms if _is_dead_norm(*norm[1:])], symbols)
        if kind == "instability":
            update = max(_largest_update(layer, reading) for layer in layers)
            return instability_symptom(update, max(signals[layer][GRADIENT_SHARE] for layer in layers))
        assert kind == "not_learning", kind
        num_readings = min(int(self._memory.still[str(layer)][2]) for layer in layers) + 1
        return not_learning_symptom(max(max(reading.spreads(layer)) for layer in layers), num_readings)


def _is_rope(reading: Reading) -> bool | None:
    lowest = min(abs(r) for values in reading.heads.values() for r in values["rank_correlation"])
    return True if lowest > LIKE_INDEX else False if lowest < UNLIKE_INDEX else None


def _is_dead_norm(now: float, first: float) -> bool:
    return now == 0 or now < DEAD * first


def _largest_update(layer: int, reading: Reading) -> float:
    return max(reading.signals[layer][map_signal(name, UPDATE)] for name in reading.maps[layer])


def _is_unstable(layer: int, reading: Reading) -> bool | None:
    update, share = _largest_update(layer, reading), reading.signals[layer][GRADIENT_SHARE]
    if update > LARGE_UPDATE or share > LARGE_SHARE:
        return True
    return False if update < MODERATE_UPDATE and share < MODERATE_SHARE else None
