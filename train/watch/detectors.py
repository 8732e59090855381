"""What counts as a failure of learned positions, and when it is reported.

A detector gives each place (a head, a layer, or the whole model) a verdict per reading: bad, well, or neither
(verdicts.py). There is a gap between the thresholds for bad and well; an episode begins after CONFIRM bad readings in a
row and ends after CONFIRM that are well. So a value near a threshold does not raise alert after alert. Each episode is
reported once when it begins and once when it ends; places that begin at the same reading share one alert. The detectors
are a pure function of the readings, and their state is plain JSON.

RePo starts close to NoPE, with positions that hardly differ, and the scale of its gradients depends on the model. So a
head or a map is compared with what it showed earlier in the same run. A spread is q99 - q01, which single far tokens do
not change; a row is a head's row of the last map. A wide or a narrow range is no failure by itself: a run at a high
rate passes through both, and its loss falls. So a range alone raises an alert only while the loss is worse than it was.

    not_finite       head    a position is not finite; said at once, of the lowest such layer
    wrong_positions  layer   a token's position changes with later tokens
    same_heads       layer   all heads have the same positions
    collapse         head    the spread or the row vanished; or little is left of the row, and the loss is worse or
                             something else than the optimizer takes it away; or no rotary frequency resolves the
                             spread any more, or neighbours share a position, and the loss is worse
    rope             model   every head of every layer follows the token index: |rank correlation| above 0.95
    explosion        head    the row grows faster and faster, or at one stroke; or |z| is so large that float32
                             positions are 1/8 apart; or the range is too wide, and the loss is worse
    dead_gradient    layer   the gradient of one of its maps is zero, or a thousandth of the usual one
                     head    the same of a head's row
    wrong_gradient   layer   the loss does not change as the gradient at the positions says, or this gradient does not
                             add up to zero over a row
                     head    the gradient at the positions is not what arrives at the head's row
    wrong_update     head    an update changes the row by something that the optimizer's rule does not give
    instability      layer   an update changes half of a map, or its maps are 90 % of the whole model's gradient
    not_learning     layer   no rotary frequency ever resolved a head, and for 20 readings and 1000 steps after the
                             warm-up the widest spread has not doubled

An earlier line explains a later one: where positions are not finite, nothing else is known; where the heads of a layer
have collapsed or exploded, or are the same, or the model has become RoPE, the gradients change as a consequence, so no
alert about them is raised; nor is the wide range of a head that follows the token index an explosion. A row that has
collapsed or exploded is not called a `wrong_update` besides.

So does a higher layer explain a lower one. What is lost on the way back from the loss to a layer is lost to all below:
where the gradient at the positions of a layer is wrong, or its positions have exploded, the loss does not change as the
gradients of the layers below say, whatever they are. Only the highest such layer is a `wrong_gradient` for its slope.

Of a scheme that adds the index, the positions that are read are deviations from it (Reading.deviations). Where they are
equal the layer is RoPE, as it was when the run began: that is a collapse only while the loss is worse, and `rope` is
not judged. Its last map begins as zero, so that no gradient can reach the other maps in the first step.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from report.metrics import (
    GRADIENT_ERROR,
    GRADIENT_RESIDUAL,
    GRADIENT_SHARE,
    GRADIENT_SLOPE,
    HEAD_GRADIENT,
    HEAD_NORM,
    POSITION_ERROR,
    UPDATE_ERROR,
)
from train.watch import verdicts as judge
from train.watch.alert import (
    ADVICE,
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
    wrong_gradient_symptom,
    wrong_positions_symptom,
    wrong_update_symptom,
)
from train.watch.memory import Memory
from train.watch.reading import Reading
from train.watch.verdicts import Verdicts

CONFIRM = 2  # readings in a row that begin or end an episode
TRENDS = ("collapse", "explosion")  # kinds that may be said long after a row has begun to fade or grow
AT_ONCE = ("not_finite",)  # kinds that one reading begins: the run may end before a second
KINDS = tuple(ADVICE)
"""All kinds of alerts, in the order of detection."""


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

    def observe(self, is_bad: bool | None, step: int, confirm: int) -> bool | None:
        """Returns True if the episode begins with this reading, the `confirm`-th bad one; False if it ends."""
        self.num_bad = self.num_bad + 1 if is_bad else 0
        self.num_well = self.num_well + 1 if is_bad is False else 0
        if self.num_bad == 1 and not self.is_open:
            self.since = step
        if self.num_well == 1 and self.is_open:
            self.until = step
        if (self.num_well < CONFIRM) if self.is_open else (self.num_bad < confirm):
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
        """Number of episodes that last."""
        return sum(episode.is_open for episode in self._episodes.values())

    @property
    def open_episodes(self) -> list[tuple[str, Place]]:
        """Kind and place of every episode that lasts."""
        return sorted(key for key, episode in self._episodes.items() if episode.is_open)

    def observe(self, reading: Reading) -> list[Alert]:
        """Returns what begins and what ends with this reading, in the order of the detectors."""
        alerts: list[Alert] = []
        verdicts = self._verdicts(reading)
        for kind, place in self._episodes:
            verdicts[kind].setdefault(place, None)  # what is not judged is not bad twice in a row
        for kind, places in verdicts.items():
            begun: dict[Place, Episode] = {}
            ended: dict[Place, Episode] = {}
            for place, is_bad in places.items():
                episode = self._episodes.setdefault((kind, place), Episode())
                if (begins := episode.observe(is_bad, reading.step, 1 if kind in AT_ONCE else CONFIRM)) is not None:
                    (begun if begins else ended)[place] = episode
            if kind == "not_learning":
                for (layer,), episode in begun.items():
                    episode.since = int(self._memory.still[str(layer)][0])
            if kind in TRENDS:
                for (layer, head), episode in begun.items():
                    start = self._memory.start_of_trend(layer, head, reading.heads[layer][HEAD_NORM][head])
                    episode.since = min(episode.since, episode.since if start is None else start)
            if begun:
                where, since = name_places(begun, reading), min(episode.since for episode in begun.values())
                message = alert_message(kind, where, since, self._symptom(kind, list(begun), reading))
                alerts.append(Alert("alert", kind, where, since, message))
            if ended:
                where, since = name_places(ended, reading), min(episode.since for episode in ended.values())
                until = min(episode.until for episode in ended.values())
                alerts.append(Alert("recovery", kind, where, until, recovery_message(kind, where, since, until)))
        self._episodes = {key: episode for key, episode in self._episodes.items() if episode.is_open or episode.num_bad}
        exploded = {place for kind in ("explosion", "not_finite") for place, bad in verdicts[kind].items() if bad}
        is_hurt = bool(exploded) or any(verdicts["collapse"].values())
        self._memory.add(reading, exploded, is_hurt, self._warmup)
        return alerts

    def state_dict(self) -> dict[str, Any]:
        """Returns the state as plain JSON."""
        places = sorted(self._episodes.items(), key=lambda item: item[0])
        episodes = [[kind, list(place), asdict(episode)] for (kind, place), episode in places]
        return {"memory": asdict(self._memory), "episodes": episodes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        known = {field.name for field in fields(Memory)}  # an older checkpoint holds others
        self._memory = Memory(**{name: value for name, value in state["memory"].items() if name in known})
        self._episodes = {(kind, tuple(place)): Episode(**fields) for kind, place, fields in state["episodes"]}

    def _verdicts(self, reading: Reading) -> dict[str, Verdicts]:
        found: dict[str, Verdicts] = {kind: {} for kind in KINDS}
        if (lowest := judge.lowest_not_finite(reading)) is not None:
            for head, is_bad in enumerate(judge.not_finite_heads(lowest, reading)):
                found["not_finite"][lowest, head] = is_bad or None
            return found
        rope = judge.is_rope(reading)
        found["rope"][()] = rope
        is_disordered = False
        for layer, values in reading.heads.items():
            found["wrong_positions"][layer,] = judge.is_misplaced(layer, reading)
            is_disordered = is_disordered or found["wrong_positions"][layer,] is True
            found["same_heads"][layer,] = None if rope else judge.is_same(layer, reading)
            own = [(layer, head) for head in range(len(values["std"]))]
            for place in own:
                found["not_finite"][place] = False
                found["collapse"][place] = judge.is_collapsed(*place, reading, self._memory)
                found["explosion"][place] = judge.is_exploded(*place, reading, self._memory, self._length)
            is_explained = (
                any((rope, found["wrong_positions"][layer,], found["same_heads"][layer,]))
                or all(found["collapse"][place] for place in own)
                or any(found["explosion"][place] for place in own)
            )
            self._judge_gradients(found, layer, own, reading, is_explained)
        if is_disordered:  # the loss of the row is another each time
            found["wrong_gradient"] = dict.fromkeys(found["wrong_gradient"])
        else:
            self._excuse_layers_below(found, reading)
        return found

    def _excuse_layers_below(self, found: dict[str, Verdicts], reading: Reading) -> None:
        """Takes back verdicts about the slope of layers below one where the gradient goes wrong."""
        is_below = False
        for layer in sorted(reading.heads, reverse=True):
            if is_below and found["wrong_gradient"][layer,] and not judge.is_unbalanced(layer, reading):
                found["wrong_gradient"][layer,] = None
            is_below = is_below or any(
                place[:1] == (layer,) and (is_bad or self._is_open(kind, place))
                for kind in ("wrong_gradient", "explosion")
                for place, is_bad in found[kind].items()
            )

    def _is_open(self, kind: str, place: Place) -> bool:
        episode = self._episodes.get((kind, place))
        return episode is not None and episode.is_open

    def _judge_gradients(
        self, found: dict[str, Verdicts], layer: int, heads: list[tuple[int, int]], reading: Reading, is_explained: bool
    ) -> None:
        """Adds the verdicts about a layer's gradients and updates, which are None where `is_explained`."""
        dead = None if is_explained else judge.is_dead(layer, reading, self._memory)
        found["dead_gradient"][layer,] = dead
        wrong = None if is_explained or dead else judge.is_wrong_gradient(layer, reading)
        found["wrong_gradient"][layer,] = wrong
        for place in heads:
            is_told = is_explained or dead or found["collapse"][place]
            lost = None if is_told else judge.is_dead_head(*place, reading, self._memory)
            found["dead_gradient"][place] = lost
            is_written = None if is_explained or found["collapse"][place] else judge.is_wrong_update(*place, reading)
            found["wrong_update"][place] = is_written
            found["wrong_gradient"][place] = None if is_told or lost or wrong else judge.is_wrong_row(*place, reading)
        found["instability"][layer,] = None if is_explained else judge.is_unstable(layer, reading, self._memory)
        found["not_learning"][layer,] = (
            None if is_explained or dead else judge.is_unchanged(layer, reading, self._memory)
        )

    def _symptom(self, kind: str, places: list[Place], reading: Reading) -> str:
        """Describes how bad it is at the worst of the places."""
        heads, signals, memory = reading.heads, reading.signals, self._memory
        layers, of_heads = [place[0] for place in places if place], [place for place in places if len(place) == 2]
        if kind == "not_finite":
            return "positions are not finite, and so is all that is computed from them"
        if kind == "wrong_positions":
            return wrong_positions_symptom(max(signals[layer][POSITION_ERROR] for layer in layers))
        if kind == "same_heads":
            return "all heads have the same positions, up to scale and shift"
        if kind == "collapse":
            return collapse_symptom(
                "RoPE" if all(layer in reading.deviations for layer, _ in of_heads) else "NoPE",
                [(reading.spreads(layer)[head], memory.held(layer, head)) for layer, head in of_heads],
                [(heads[layer][HEAD_NORM][head], memory.held_norm(layer, head)) for layer, head in of_heads],
            )
        if kind == "explosion":
            ends = [abs(heads[layer][name][head]) for layer, head in of_heads for name in ("min", "max")]
            ranges = [heads[layer]["range"][head] for layer, head in of_heads]
            growing = [place for place in of_heads if judge.outgrows(*place, reading, memory)]
            norms = [(heads[layer][HEAD_NORM][head], memory.held_norm(layer, head)) for layer, head in growing]
            return explosion_symptom(ranges, ends, norms, self._length)
        if kind == "rope":
            followers = [heads[layer]["rank_correlation"] for layer in set(heads).difference(reading.deviations)]
            return rope_symptom(min(abs(r) for of_layer in followers for r in of_layer))
        if kind == "dead_gradient":
            return self._dead_symptom(places, reading)
        if kind == "wrong_gradient":
            whole = [signals[layer] for (layer,) in (place for place in places if len(place) == 1)]
            return wrong_gradient_symptom(
                [values[GRADIENT_SLOPE] for values in whole],
                [values[GRADIENT_RESIDUAL] for values in whole],
                [heads[layer][GRADIENT_ERROR][head] for layer, head in of_heads],
            )
        if kind == "wrong_update":
            return wrong_update_symptom(max(heads[layer][UPDATE_ERROR][head] for layer, head in of_heads))
        if kind == "instability":
            update = max(judge.largest_update(layer, reading) for layer in layers)
            return instability_symptom(update, max(signals[layer][GRADIENT_SHARE] for layer in layers))
        assert kind == "not_learning", kind
        num_readings = min(int(memory.still[str(layer)][2]) for layer in layers) + 1
        return not_learning_symptom(max(max(reading.spreads(layer)) for layer in layers), num_readings)

    def _dead_symptom(self, places: list[Place], reading: Reading) -> str:
        norms, symbols = [], {}
        for layer, *head in places:
            if head:
                name = f"row {head[0]}"
                now = reading.heads[layer][HEAD_GRADIENT][head[0]]
                norms.append((name, now, self._memory.usual_gradient(layer, str(head[0]))))
                symbols[name] = "the head's row"
            else:
                norms += judge.map_gradients(layer, reading, self._memory)
                symbols |= reading.maps[layer]
        return dead_gradient_symptom([norm for norm in norms if judge.is_dead_norm(*norm[1:])], symbols)
