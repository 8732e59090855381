"""What counts as a failure of learned positions, and when it is said.

A detector gives each place (a head, a layer, or the whole model) a verdict per reading: bad, well, or neither. Between
the thresholds for bad and well lies a gap, and an episode begins after CONFIRM bad readings in a row and ends after
CONFIRM that are well, so nothing flickers. Each episode is said once, at its begin and at its end; what begins at the
same reading is one sentence. All is a pure function of the readings, and its state is plain JSON.

RePo starts close to NoPE, with positions that hardly differ, and the scale of its gradients is the model's own. So what
a head or a map is held against is what it showed earlier in the same run. A spread is q99 - q01, so that one token far
off hides nothing:

    collapse       head    its spread fell to a tenth of the highest that it had held for two readings, and no rotary
                           frequency sees it any more, or neighbours share a position; or it fell to a hundredth
    rope           model   every head of every layer follows the token index: |rank correlation| above 0.95
    explosion      head    its range exceeds twice the sequence length, which is RoPE's own range; or a quarter of it,
                           and its spread jumped to twenty times what it had held; or |z| is so large that float32
                           positions are 1/8 apart, or not finite
    dead_gradient  layer   the gradient of one of its maps is zero, or a thousandth of its first readings'
    instability    layer   an update changes half of a map, or its maps are 90 % of the whole model's gradient
    not_learning   layer   no head was ever seen by a rotary frequency, and for 20 readings and 1000 steps after
                           the warm-up the widest spread has not doubled

An earlier line explains a later one: a layer whose heads have collapsed or exploded, or a model that has become RoPE,
gets odd gradients as a consequence, and is not accused of those as well; nor is the wide range of a head that has
become RoPE an explosion.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from train.watch.alert import Alert
from train.watch.memory import GROWN, Memory
from train.watch.names import MAPS
from train.watch.reading import Reading
from train.watch.wording import (
    Place,
    collapse_symptom,
    dead_gradient_symptom,
    end_sentence,
    explosion_symptom,
    instability_symptom,
    name_places,
    not_learning_symptom,
    rope_symptom,
    sentence,
)

CONFIRM = 2  # readings in a row that begin or end an episode
PATIENCE, PATIENCE_STEPS = 20, 1000  # readings and steps that a fresh layer has to leave its start
COLLAPSED, SPREAD = 0.1, 0.2  # of the spread that a head has held
VANISHED = 0.01  # ditto: a collapse, whatever is still seen of it
FLAT = 0.95  # constant_share of a head that tells no neighbours apart
SEEN = 0.1  # positions apart: 0.1 rad for the fastest rotary frequency, which turns one radian per position
EXPLODED, CONTAINED = 2.0, 1.0  # range, in sequence lengths
JUMPED, LARGE = 20.0, 0.25  # times the spread that a head has held, with a range of so many sequence lengths
COARSE = 2.0**20  # |z| from which float32 positions are 1/8 apart
LIKE_INDEX, UNLIKE_INDEX = 0.95, 0.9  # |rank correlation|
DEAD, ALIVE = 1e-3, 1e-2  # of the gradient norm of the first readings
WILD_UPDATE, TAME_UPDATE = 0.5, 0.25  # of a map's norm, in one step
DOMINANT, MODEST = 0.9, 0.7  # share of the model's gradient norm

Verdicts = dict[Place, bool | None]
"""True: bad; False: well; None: neither, or it cannot be told."""


@dataclass
class Episode:
    """How one detector has seen one place."""

    num_bad: int = 0  # readings in a row
    num_well: int = 0
    since: int = 0  # step of the first bad reading of the row, or of the episode if one is open
    until: int = 0  # step of the first good reading of the row
    is_open: bool = False

    def observe(self, is_bad: bool | None, step: int) -> bool | None:
        """True if an episode begins with this reading, False if one ends, else None."""
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


class Detectors:
    """Readings in, alerts out."""

    def __init__(self, sequence_length: int, warmup_steps: int = 0) -> None:
        self._warmup = warmup_steps
        self._length = sequence_length
        self._memory = Memory()
        self._episodes: dict[tuple[str, Place], Episode] = {}

    @property
    def num_open(self) -> int:
        """Episodes that last."""
        return sum(episode.is_open for episode in self._episodes.values())

    def observe(self, reading: Reading) -> list[Alert]:
        """What begins and what ends with this reading, in the order of the detectors."""
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
                message = sentence(kind, where, since, self._symptom(kind, list(begun), reading))
                alerts.append(Alert("alert", kind, where, since, message))
            if ended:
                where, since = name_places(ended, reading), min(episode.since for episode in ended.values())
                until = min(episode.until for episode in ended.values())
                alerts.append(Alert("recovery", kind, where, until, end_sentence(kind, where, since, until)))
        self._episodes = {key: episode for key, episode in self._episodes.items() if episode.is_open or episode.num_bad}
        unsound = {place for place, is_bad in verdicts["explosion"].items() if is_bad}
        self._memory.add(reading, SEEN, DEAD, unsound, self._warmup)
        return alerts

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        places = sorted(self._episodes.items(), key=lambda item: item[0])
        episodes = [[kind, list(place), asdict(episode)] for (kind, place), episode in places]
        return {"memory": asdict(self._memory), "episodes": episodes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse."""
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
            instability[layer,] = None if is_explained else _is_unstable(reading.signals[layer])
            learning[layer,] = None if is_explained or gradient[layer,] else self._is_still(layer, reading)
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
        if spread < VANISHED * held or (spread < COLLAPSED * held and (spread < SEEN or flat > FLAT)):
            return True
        return False if spread > SPREAD * held and spread > SEEN else None

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
        if not all(math.isfinite(now) for now, _ in norms.values()):
            return None
        if any(_is_dead_norm(*norm) for norm in norms.values()):
            return True
        return False if all(now > ALIVE * first for now, first in norms.values()) else None

    def _gradients(self, layer: int, reading: Reading) -> dict[str, tuple[float, float]]:
        """Map -> its gradient norm now, and of the first readings."""
        now = reading.signals[layer]
        return {name: (now[f"{name}_grad_norm"], self._memory.first_gradient(layer, name)) for name in MAPS}

    def _is_still(self, layer: int, reading: Reading) -> bool | None:
        if self._memory.was_seen.get(str(layer)) or max(reading.spreads(layer)) > SEEN:
            return False
        since, start, count = self._memory.still.get(str(layer), (reading.step, 0.0, 0))
        is_long = count >= PATIENCE and reading.step - since >= PATIENCE_STEPS
        return True if is_long and max(reading.spreads(layer)) <= GROWN * start else None

    def _symptom(self, kind: str, places: list[Place], reading: Reading) -> str:
        """How bad it is, at the worst of the places."""
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
            dead = [
                (name, norm)
                for layer in layers
                for name, norm in self._gradients(layer, reading).items()
                if _is_dead_norm(*norm)
            ]
            return dead_gradient_symptom(dead)
        if kind == "instability":
            ratio = max(signals[layer][f"{name}_update_ratio"] for layer in layers for name in MAPS)
            return instability_symptom(ratio, max(signals[layer]["gradient_share"] for layer in layers))
        num_readings = min(int(self._memory.still[str(layer)][2]) for layer in layers) + 1
        return not_learning_symptom(max(max(reading.spreads(layer)) for layer in layers), num_readings)


def _is_rope(reading: Reading) -> bool | None:
    lowest = min(abs(r) for values in reading.heads.values() for r in values["rank_correlation"])
    return True if lowest > LIKE_INDEX else False if lowest < UNLIKE_INDEX else None


def _is_dead_norm(now: float, first: float) -> bool:
    return now == 0 or now < DEAD * first


def _is_unstable(signal: dict[str, float]) -> bool | None:
    update, share = max(signal[f"{name}_update_ratio"] for name in MAPS), signal["gradient_share"]
    if update > WILD_UPDATE or share > DOMINANT:
        return True
    return False if update < TAME_UPDATE and share < MODEST else None
