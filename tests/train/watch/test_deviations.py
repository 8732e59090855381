"""The detectors of positions that are deviations from the index, by table."""

from tests.train.watch.readings import (
    COLLAPSED,
    FRESH,
    LAYERS,
    alerts_of,
    set_heads,
    set_signal,
    worse,
)
from train.watch.reading import Reading
from train.watch.verdicts import (
    UNCHANGED_READINGS,
)

EQUAL = dict.fromkeys(("std", "min", "max", "range", "resolution", "q01", "q99", "rank_correlation"), 0.0)
STARTING = (set_heads(**EQUAL, head_norm=0.0), set_signal(gate_grad_norm=0.0, content_grad_norm=0.0, final_norm=0.0))


def of_deviations(reading: Reading) -> None:
    """The positions are deviations from the index."""
    object.__setattr__(reading, "deviations", LAYERS)


def test_deviations_that_begin_at_zero_and_grow_raise_no_alert() -> None:
    """With a reading of every step: the last map doubles, and the gradients of the others begin at zero."""

    def growing(reading: Reading) -> None:
        size = reading.step / 100 - 2
        set_heads(q01=-0.01 * size, q99=0.01 * size, head_norm=1e-3 * size)(reading)
        set_signal(final_update_ratio=1 / size)(reading)

    assert not alerts_of((2, (*STARTING, of_deviations)), (10, (growing, of_deviations)))
    kinds = {alert.kind for _, alert in alerts_of((2, (*STARTING, set_signal(final_norm=0.01))))}
    assert kinds == {"dead_gradient"}  # where the last map is not zero, the others are cut off


def test_deviations_that_vanish_are_a_failure_only_while_the_loss_is_worse() -> None:
    vanished = (set_heads(**COLLAPSED, head_norm=1e-5), of_deviations)
    used = (10, (of_deviations,))
    assert not alerts_of(used, (10, vanished))
    assert {alert.kind for _, alert in alerts_of((10, ()), (10, vanished[:1]))} == {"collapse"}
    (number, alert), *_ = alerts_of(used, (3, (*vanished, worse)))
    assert (number, alert.kind) == (12, "collapse") and ("as in RoPE" in alert.message or "fades" in alert.message)


def test_deviations_that_follow_the_index_are_not_rope() -> None:
    following = set_heads(rank_correlation=0.99)
    assert {alert.kind for _, alert in alerts_of((5, (following,)))} == {"rope"}
    assert not alerts_of((5, (following, of_deviations)))


def test_deviations_that_never_grow_are_not_learning() -> None:
    stuck = (set_heads(**FRESH), of_deviations)
    assert [alert.kind for _, alert in alerts_of((UNCHANGED_READINGS + 10, stuck))] == ["not_learning"]
