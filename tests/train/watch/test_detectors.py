"""The detectors by table: readings in, alerts out; hysteresis, what explains what, and a state that survives JSON."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from report.metrics import signals
from tests.train.watch.readings import (
    COLLAPSED,
    EXPLODED,
    FRESH,
    LAYERS,
    LENGTH,
    MAPS,
    NUM_HEADS,
    USUAL,
    Change,
    alerts_of,
    reading,
    scaled_rows,
    set_heads,
    set_signal,
    worse,
)
from train.watch.detectors import CONFIRM, Detectors
from train.watch.reading import Reading
from train.watch.verdicts import NUM_EARLY, OUTGROWN, UNCHANGED_READINGS, WRONG_UPDATE

CASES: dict[str, tuple[str, str, tuple[Change, ...]]] = {
    "all heads collapse": ("collapse", "all learned layers", (set_heads(**COLLAPSED), worse)),
    "all but one token collapse": (
        "collapse",
        "layer 6",
        (set_heads((6,), **(COLLAPSED | {"max": 300.0, "range": 299.0, "std": 4.7, "resolution": 9.0})), worse),
    ),
    "neighbours fall together": ("collapse", "layer 6", (set_heads((6,), q01=0.0, q99=0.7, constant_share=1.0), worse)),
    "a head keeps next to nothing": ("collapse", "layer 6 head 2", (set_heads((6,), (2,), q01=0.0, q99=0.7e-3),)),
    "a layer collapses": ("collapse", "layer 6", (set_heads((6,), **COLLAPSED), worse)),
    "rows vanish": ("collapse", "layer 6 head 2", (set_heads((6,), (2,), head_norm=0.9e-4),)),
    "little is left of a row": ("collapse", "layer 6 head 2", (set_heads((6,), (2,), head_norm=0.9e-3), worse)),
    "two layers and a head": (
        "collapse",
        "layers 5, 7; layer 6 head 3",
        (set_heads((5, 7), **COLLAPSED), set_heads((6,), (3,), **COLLAPSED), worse),
    ),
    "heads collapse": ("collapse", "layer 6 heads 0, 2", (set_heads((6,), (2, 0), **COLLAPSED), worse)),
    "a collapse starves the maps": (
        "collapse",
        "layer 6",
        (set_heads((6,), **COLLAPSED), set_signal((6,), gate_grad_norm=0.0, final_update_ratio=5.0), worse),
    ),
    "a range explodes": ("explosion", "layer 5 head 1", (set_heads((5,), (1,), **EXPLODED), worse)),
    "a spread jumps": (
        "explosion",
        "layer 5 head 1",
        (set_heads((5,), (1,), q99=158.0, range=251.0, max=247.0), worse),
    ),
    "positions too far away": ("explosion", "layer 5", (set_heads((5,), min=2.0e6, max=2.0e6 + 10),)),
    "too far below zero": ("explosion", "layer 5", (set_heads((5,), min=-2.0e6, max=-2.0e6 + 10),)),
    "an explosion rules the gradient": (
        "explosion",
        "all learned layers",
        (set_heads(**EXPLODED), set_signal(gradient_share=0.99), worse),
    ),
    "the index": ("rope", "all learned layers", (set_heads(rank_correlation=0.99),)),
    "the index backwards": ("rope", "all learned layers", (set_heads(rank_correlation=-0.99),)),
    "the index without gradient": (
        "rope",
        "all learned layers",
        (set_heads(rank_correlation=1.0), set_signal(gate_grad_norm=0.0, content_grad_norm=0.0, final_grad_norm=0.0)),
    ),
    "no gradient": ("dead_gradient", "layers 5, 6", (set_signal((5, 6), content_grad_norm=0.0),)),
    "hardly any gradient": ("dead_gradient", "layer 5", (set_signal((5,), final_grad_norm=0.9e-5),)),
    "no gradient at a head": ("dead_gradient", "layer 5 head 1", (set_heads((5,), (1,), head_grad_norm=0.0),)),
    "one lost on its way": (
        "dead_gradient",
        "layer 5 head 1",
        (set_heads((5,), (1,), head_grad_norm=0.0, gradient_error=1.0),),
    ),
    "a wrong sign": ("wrong_gradient", "layer 5", (set_signal((5,), gradient_slope=-1.0),)),
    "a gradient too small": ("wrong_gradient", "layer 5", (set_signal((5,), gradient_slope=2.0),)),
    "gradients that do not add up to zero": ("wrong_gradient", "layer 5", (set_signal((5,), gradient_residual=0.9),)),
    "a wrong sign at a row": ("wrong_gradient", "layer 5 head 2", (set_heads((5,), (2,), gradient_error=2.0),)),
    "another gradient at all rows": ("wrong_gradient", "layer 5", (set_heads((5,), gradient_error=0.5),)),
    "a wrong gradient that spoils those below": (
        "wrong_gradient",
        "layer 7",
        (set_signal((5,), gradient_slope=3.0), set_signal((6, 7), gradient_slope=-1.0)),
    ),
    "a wrong gradient above one that does not add up": (
        "wrong_gradient",
        "layers 5, 7",
        (set_signal((5,), gradient_residual=0.9, gradient_slope=3.0), set_signal((7,), gradient_slope=-1.0)),
    ),
    "a wrong gradient above a wrong row": (
        "wrong_gradient",
        "layer 6; layer 5 head 2",
        (set_heads((5,), (2,), gradient_error=2.0), set_signal((6,), gradient_slope=-1.0)),
    ),
    "an explosion that bends the loss below": (
        "explosion",
        "layer 7 head 1",
        (set_heads((7,), (1,), **EXPLODED), set_signal((5, 6), gradient_slope=0.3), worse),
    ),
    "positions of other tokens": (
        "wrong_positions",
        "layer 5",
        (set_signal((5,), position_error=1.4), set_signal(gradient_slope=-0.2)),
    ),
    "heads that are all the same": ("same_heads", "layer 7", (set_heads((7,), similarity=1.0),)),
    "a row that something else writes to": (
        "wrong_update",
        "layer 5 head 2",
        (set_heads((5,), (2,), update_error=1.01 * WRONG_UPDATE),),
    ),
    "one that has vanished as well": (
        "collapse",
        "layer 6 head 2",
        (set_heads((6,), (2,), head_norm=0.9e-3, update_error=0.5),),
    ),
    "one whose positions explode as well": (
        "explosion",
        "layer 5 head 1",
        (set_heads((5,), (1,), **EXPLODED, update_error=0.5), worse),
    ),
    "a map is replaced": ("instability", "layer 7", (set_signal((7,), content_update_ratio=0.6),)),
    "maps rule the gradient": ("instability", "layer 7", (set_signal((7,), gradient_share=0.95),)),
}
HARMLESS: dict[str, tuple[Change, ...]] = {
    "a small spread that frequencies see": (set_heads(q01=0.0, q99=0.2),),
    "one token far off": (set_heads((5,), (1,), range=900.0, max=896.0, std=90.0),),
    "heads and a layer that follow the index": (
        set_heads((5,), (0, 1), rank_correlation=0.99, range=999.0, max=995.0, q99=990.0),
        set_heads((6,), rank_correlation=0.99, range=999.0, max=995.0, q99=990.0),
    ),
    "a range as long as the sequence": (set_heads(range=999.0, max=995.0, q99=157.0),),
    "a jump to what is still small": (set_heads(range=249.0, max=245.0, q99=240.0),),
    "positions far from zero": (set_heads(min=5.0e5, max=5.0e5 + 10),),
    "all but one head like the index": (set_heads(rank_correlation=0.99), set_heads((7,), (3,), rank_correlation=0.6)),
    "a gradient a hundred times smaller": (set_signal(final_grad_norm=1e-4, gate_grad_norm=1e-4),),
    "an overflow of the whole gradient": (set_signal(gate_grad_norm=math.inf, gradient_share=math.nan),),
    "a spread that no frequency sees while the loss is as usual": (set_heads((5,), (1,), **COLLAPSED),),
    "a range of many sequences while the loss is as usual": (set_heads((5,), (1,), **EXPLODED),),
    "a slope that is not known": (set_signal(gradient_slope=math.nan),),
    "rows that are not known": (
        set_heads(head_norm=math.nan, head_grad_norm=math.nan, gradient_error=math.nan, update_error=math.nan),
    ),
    "little is left of a row while the loss is as usual": (set_heads((6,), (2,), head_norm=0.9e-3),),
    "rounding of an update": (set_heads(update_error=0.9 * WRONG_UPDATE),),
    "rounding in bf16": (set_signal(gradient_residual=0.02, position_error=0.05), set_heads(gradient_error=0.03)),
    "all heads alike but one": (set_heads((6,), (0, 1, 2), similarity=0.9999), set_heads((6,), (3,), similarity=0.8)),
    "a tenth of a map in a step": (set_signal(final_update_ratio=0.1),),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_said_at_the_second_reading_and_nothing_else_is(name: str) -> None:
    kind, where, changes = CASES[name]
    [(number, alert)] = alerts_of(USUAL, (10, changes))
    assert (number, alert.event, alert.kind, alert.where, alert.since) == (7, "alert", kind, where, 600)
    assert alert.message.startswith(f"{where}: since step 600, ") and len(alert.message.splitlines()) == 1
    assert "; " in alert.message and "nan" not in alert.message


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_harmless_is_not_mentioned(name: str) -> None:
    assert alerts_of(USUAL, (10, HARMLESS[name])) == []


@pytest.mark.parametrize("name", CASES)
def test_one_odd_reading_is_no_episode(name: str) -> None:
    changes = CASES[name][2]
    assert alerts_of(USUAL, (1, changes), (1, ()), (1, changes), (3, ())) == []


@pytest.mark.parametrize("name", CASES)
def test_an_episode_ends_with_one_recovery_and_may_begin_again(name: str) -> None:
    kind, where, changes = CASES[name]
    found = alerts_of(USUAL, (4, changes), (1, ()), (1, changes), (4, ()), (3, changes))
    assert [(n, a.event, a.kind, a.where) for n, a in found] == [
        (7, "alert", kind, where),
        (13, "recovery", kind, where),  # the good reading before was alone
        (17, "alert", kind, where),
    ]
    assert found[1][1].since == 1200 and "since step 600" in found[1][1].message
    assert found[2][1].since == 1600


def test_between_the_thresholds_an_episode_neither_begins_nor_ends() -> None:
    between = (set_heads(**(COLLAPSED | {"q99": 2.2})),)
    assert alerts_of(USUAL, (10, between)) == []
    [(number, alert)] = alerts_of(USUAL, (3, (set_heads(**COLLAPSED), worse)), (10, between))
    assert (number, alert.event) == (7, "alert")


def test_a_fresh_module_is_no_collapse_and_one_that_stays_so_does_not_learn() -> None:
    found = alerts_of((UNCHANGED_READINGS + 10, (set_heads(**FRESH),)))
    [(number, alert)] = found
    assert (number, alert.kind, alert.where) == (UNCHANGED_READINGS + CONFIRM, "not_learning", "all learned layers")
    assert alert.since == 100 and "within 0.036" in alert.message


def test_readings_in_the_warm_up_or_close_together_or_that_grow_are_not_called_unchanged() -> None:
    warming, close, growing = Detectors(LENGTH, 1000), Detectors(LENGTH), Detectors(LENGTH)
    said = [(n, a) for n in range(1, 40) for a in warming.observe(reading(100 * n, set_heads(**FRESH)))]
    assert [(number, alert.since) for number, alert in said] == [(10 + UNCHANGED_READINGS + CONFIRM, 1100)]
    assert not [a for n in range(1, 40) for a in close.observe(reading(n, set_heads(**FRESH)))]
    for number in range(1, 100):
        wider = set_heads(**(FRESH | {"q99": 1e-4 * 1.05**number, "q01": 0.0}))
        assert growing.observe(reading(100 * number, wider)) == []


def test_a_module_that_leaves_its_start_learns() -> None:
    assert alerts_of((UNCHANGED_READINGS - 1, (set_heads(**FRESH),)), (5, ())) == []
    found = alerts_of((UNCHANGED_READINGS + 3, (set_heads(**FRESH),)), (5, ()))
    assert [alert.event for _, alert in found] == ["alert", "recovery"]


def test_a_layer_that_once_left_its_start_collapses_when_it_falls_back() -> None:
    found = alerts_of((3, (set_heads(**FRESH),)), (5, ()), (2 * UNCHANGED_READINGS, (set_heads(**FRESH), worse)))
    assert [(number, alert.kind) for number, alert in found] == [(10, "collapse")]


def test_a_gradient_that_never_came_is_dead_from_the_start() -> None:
    dead = (set_heads(**FRESH), set_signal(gate_grad_norm=0.0, content_grad_norm=0.0, final_grad_norm=0.0))
    assert [(n, alert.kind) for n, alert in alerts_of((2 * UNCHANGED_READINGS, dead))] == [(CONFIRM, "dead_gradient")]


def test_one_high_reading_is_no_value_that_a_head_is_compared_with() -> None:
    shock = (set_heads(q99=50.0),)
    assert alerts_of((3, (set_heads(**COLLAPSED),)), (1, shock), (8, (set_heads(**COLLAPSED),))) == []


@pytest.mark.parametrize("num_before", [0, 1])
def test_positions_that_exploded_before_the_first_readings_are_an_explosion_and_nothing_else(num_before: int) -> None:
    far = (set_heads((5,), range=3e4, max=2e4, min=-1e4, q99=1.5e4, std=5e3), set_signal((5,), gradient_slope=0.5))
    found = alerts_of((num_before, ()), (5, far))
    assert [(n - num_before, alert.kind, alert.where) for n, alert in found] == [(CONFIRM, "explosion", "layer 5")]
    wide = (set_heads(range=15.0 * LENGTH, max=1e4, min=-5e3),)
    assert alerts_of((5, wide)) == []


def test_a_head_is_not_compared_with_what_it_had_while_it_exploded() -> None:
    narrow = set_heads(**COLLAPSED)
    found = alerts_of((5, (narrow,)), (4, (set_heads(**EXPLODED), worse)), (6, (narrow,)))
    assert [(alert.event, alert.kind) for _, alert in found] == [("alert", "explosion"), ("recovery", "explosion")]


def test_a_collapsed_head_that_moves_a_little_has_not_recovered() -> None:
    found = alerts_of(USUAL, (4, (set_heads(**COLLAPSED), worse)), (6, (set_heads(q01=0.0, q99=0.9),)))
    assert [(number, alert.event) for number, alert in found] == [(7, "alert")]


def test_a_gradient_is_not_compared_with_what_it_was_when_it_was_dead() -> None:
    found = alerts_of((1, ()), (9, (set_signal(content_grad_norm=1e-6),)))
    assert [(number, alert.event) for number, alert in found] == [(3, "alert")]
    assert "0.01 usually" in found[0][1].message


def test_a_scheme_with_other_maps_is_watched_by_their_names_and_symbols() -> None:
    detectors, maps = Detectors(LENGTH), {"slope": "W_s", "shift": "b"}
    found = []
    for number in range(1, 8):
        made = reading(100 * number)
        own = (
            dict.fromkeys(signals(maps), 0.01)
            | {"gradient_slope": 1.0}
            | ({"shift_grad_norm": 0.0} if number > 5 else {})
        )
        found += detectors.observe(Reading(made.step, made.heads, {**made.signals, 6: own}, {**made.maps, 6: maps}))
    [alert] = found
    assert (alert.kind, alert.where) == (
        "dead_gradient",
        "layer 6",
    ) and "hardly any gradient reaches b (" in alert.message


def test_an_explosion_ends_where_the_index_explains_it() -> None:
    wide = set_heads((5,), range=999.0, max=995.0, q99=990.0)
    found = alerts_of(USUAL, (4, (wide, worse)), (4, (wide, set_heads((5,), rank_correlation=0.99))))
    assert [(alert.event, alert.kind) for _, alert in found] == [("alert", "explosion"), ("recovery", "explosion")]


def test_heads_that_follow_later_are_said_later() -> None:
    first, second = set_heads((6,), (1,), **COLLAPSED), set_heads((6,), (1, 3), **COLLAPSED)
    found = alerts_of(USUAL, (3, (first, worse)), (3, (second, worse)))
    assert [(number, alert.where) for number, alert in found] == [(7, "layer 6 head 1"), (10, "layer 6 head 3")]


def test_what_is_not_finite_is_said_at_once_and_of_the_lowest_layer_only() -> None:
    broken = {"range": math.nan, "min": math.nan, "max": math.nan, "q01": math.nan, "q99": math.nan}
    changes = (set_heads((6,), (1,), **broken), set_heads((7,), **broken), set_signal(final_grad_norm=math.nan))
    found = alerts_of(USUAL, (3, changes), (3, ()))
    assert [(number, alert.event, alert.kind, alert.where) for number, alert in found] == [
        (6, "alert", "not_finite", "layer 6 head 1"),
        (10, "recovery", "not_finite", "layer 6 head 1"),
    ]


GROWING: dict[str, tuple[int, Change]] = {
    "faster and faster": (5, scaled_rows(6, (2,), 1.35)),
    "at one stroke": (2, scaled_rows(6, (2,), 1.01 * OUTGROWN)),
}


@pytest.mark.parametrize("name", GROWING)
def test_a_row_that_grows_is_said_with_the_step_at_which_it_began(name: str) -> None:
    soon, change = GROWING[name]
    [(number, alert)] = alerts_of((10 + soon + 1, (change,)))
    assert (alert.event, alert.kind, alert.where) == ("alert", "explosion", "layer 6 head 2") and number <= 10 + soon
    assert alert.since in (1000, 1100) and "faster and faster" in alert.message


def test_rows_that_training_makes_smaller_are_no_failure_and_those_that_something_else_does_are() -> None:
    """Half of the norm in five readings, as in a healthy run at a high rate; the loss is as usual."""
    halved = scaled_rows(6, (0, 1, 2, 3), 0.87)
    written = set_heads((6,), update_error=0.02)
    assert alerts_of((16, (halved,))) == []
    [(number, alert)] = alerts_of((10, ()), (6, (halved, written)))
    assert (number, alert.kind, alert.where, alert.since) == (12, "wrong_update", "layer 6", 1100)
    assert "by 2.00% of its norm" in alert.message


def test_a_row_that_vanishes_is_said_with_the_step_at_which_it_began_to_fall() -> None:
    [(_, alert)] = alerts_of((17, (scaled_rows(6, (2,), 0.4),)))
    assert (alert.kind, alert.where, alert.since) == ("collapse", "layer 6 head 2", 1100) and "fades" in alert.message


def test_a_layer_below_is_judged_again_once_the_one_above_is_well() -> None:
    both = set_signal((5,), gradient_slope=0.3), set_signal((6,), gradient_slope=-1.0)
    unknown = (
        both[0],
        set_signal((6,), gradient_slope=math.nan, gradient_residual=0.15),
    )  # of an alert that has not ended
    found = alerts_of((5, ()), (3, both), (4, unknown), (4, both[:1]))
    assert [(number, alert.event, alert.where) for number, alert in found] == [
        (7, "alert", "layer 6"),
        (14, "recovery", "layer 6"),
        (16, "alert", "layer 5"),
    ]


def test_rows_of_fresh_maps_may_grow() -> None:
    def fresh(reading: Reading) -> None:
        for head in range(NUM_HEADS):
            reading.heads[6]["head_norm"][head] *= 1.5 ** min(reading.step // 100, NUM_EARLY - 1)

    assert alerts_of((20, (fresh,))) == []


def test_an_older_state_goes_on() -> None:
    old = Detectors(LENGTH)
    old.observe(reading(100))
    state = json.loads(json.dumps(old.state_dict()))
    kept = ("still", "last_spread", "held_spread", "was_seen")
    state["memory"] = {name: state["memory"][name] for name in kept}
    state["memory"]["first_norms"] = {str(layer): [0.01] * NUM_HEADS for layer in LAYERS}
    state["memory"]["first_gradients"] = {str(layer): {name: [0.01] for name in MAPS} for layer in LAYERS}
    resumed = Detectors(LENGTH)
    resumed.load_state_dict(state)
    assert [alert for number in range(2, 9) for alert in resumed.observe(reading(100 * number))] == []


@given(st.lists(st.sampled_from([(), *(changes for *_, changes in CASES.values())]), max_size=25), st.integers(0, 25))
def test_the_state_goes_through_json_at_any_reading(stretches: list[tuple[Change, ...]], cut: int) -> None:
    readings = [reading(number + 1, *changes) for number, changes in enumerate(stretches)]
    undisturbed, resumed = Detectors(LENGTH), Detectors(LENGTH)
    expected = [undisturbed.observe(each) for each in readings]
    found = [resumed.observe(each) for each in readings[:cut]]
    state: dict[str, Any] = json.loads(json.dumps(resumed.state_dict(), allow_nan=False))
    again = Detectors(LENGTH)
    again.load_state_dict(state)
    assert again.num_open == resumed.num_open
    assert found + [again.observe(each) for each in readings[cut:]] == expected
    assert again.state_dict() == undisturbed.state_dict()
