"""The watch in real runs: what breaks is said within three readings, a healthy run raises nothing, and no alert is
lost or said twice, however often a run is stopped or crashes.
"""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from benchmarks.detectors import damage
from model.config import PositionsConfig
from tests.distributed import freeze_modules, run_ranks
from tests.train.probe import CrashError, Outcome, Probe, events, metrics
from tests.train.tiny import tiny, write_tokens
from tests.train.watch.failing import (
    Breaking,
    detach_output,
    force_index,
    once,
    replace_by_index,
    scale_final,
    zero_gradients,
)
from train.__main__ import train
from train.config import RunConfig
from train.distributed import Ranks
from train.errors import EXIT_ALERTED, EXIT_OK, EXIT_STOPPED, BadNumbersError
from train.watch import verdicts
from train.watch.config import AlertPolicy

pytestmark = pytest.mark.system


def injured(injury: damage.Injury) -> Breaking:
    """The damage in the first layer with learned positions, from step BREAKS on."""
    begin = injury.begin
    assert begin is not None
    return Breaking(once(lambda module: begin(module, 1)), ALWAYS, only_first=True)


NUM_STEPS, BREAKS, INTERVAL = 18, 9, 2
LENGTHS = {"max_steps": NUM_STEPS, "position_watch__interval": INTERVAL}
ALWAYS, ONCE = range(BREAKS, 10**9), range(BREAKS, BREAKS + 1)
FAILURES: dict[str, tuple[str, str, Callable[[], Breaking]]] = {  # name -> kind, where, what breaks
    "W_z shrinks": ("collapse", "all learned layers", lambda: Breaking(scale_final(0.3), ALWAYS)),
    "W_z of a layer shrinks": ("collapse", "layer 1", lambda: Breaking(scale_final(0.3), ALWAYS, only_first=True)),
    "W_z of a head shrinks": (
        "collapse",
        "layer 1 head 1",
        lambda: Breaking(scale_final(0.3, 1), ALWAYS, only_first=True),
    ),
    "W_z is zero": ("collapse", "all learned layers", lambda: Breaking(scale_final(0.0), ALWAYS)),
    "W_z grows": ("explosion", "all learned layers", lambda: Breaking(scale_final(1e3), ONCE)),
    "W_z grows a little": ("explosion", "all learned layers", lambda: Breaking(scale_final(2e2), ONCE)),
    "W_z of a layer grows": ("explosion", "layer 1", lambda: Breaking(scale_final(1e3), ONCE, only_first=True)),
    "a module is cut off": ("dead_gradient", "layer 1", lambda: Breaking(once(detach_output), ALWAYS, only_first=True)),
    "a map is cut off": (
        "dead_gradient",
        "layer 1",
        lambda: Breaking(once(lambda module: detach_output(module.gate)), ALWAYS, only_first=True),
    ),
    "gradients are zero": ("dead_gradient", "all learned layers", lambda: Breaking(once(zero_gradients), ALWAYS)),
    "a head is cut off": (
        "dead_gradient",
        "layer 1 head 1",
        lambda: injured(damage.position_gradient(lambda dz, _: damage.of_head(dz, 1, 0.0))),
    ),
    "a wrong sign": ("wrong_gradient", "layer 1", lambda: injured(damage.position_gradient(lambda dz, _: -dz))),
    "an offset after the meter": ("wrong_gradient", "layer 1", lambda: injured(damage.later_gradient(damage.offset))),
    "a row that something else writes to": (
        "wrong_update",
        "layer 1 head 1",
        lambda: Breaking(scale_final(0.995, 1), ALWAYS, only_first=True),
    ),
    "a random order": ("wrong_positions", "layer 1", lambda: injured(damage.output(damage.permuted))),
    "heads that are mixed": ("same_heads", "layer 1", lambda: injured(damage.output(damage.mixed))),
    "positions are the index": ("rope", "all learned layers", lambda: Breaking(once(force_index), ALWAYS)),
    "the index without gradient": ("rope", "all learned layers", lambda: Breaking(once(replace_by_index), ALWAYS)),
}
UNTIL_IT_ENDS = "NaN in a head"  # after which every update is dropped
READ_OFTEN = {"max_steps": 30, "position_watch__interval": 1}
HEALTHY: dict[str, dict[str, Any]] = {
    "seed 0": {"seed": 0},
    "fast": {"seed": 4, "optimizer__lr": 1e-2},
    "seed 6 read often": {"seed": 6, **READ_OFTEN},
    "documents": {"seed": 5, "mask_documents": True},
}
OTHER_SEEDS: dict[str, dict[str, Any]] = {
    **{f"seed {seed}": {"seed": seed} for seed in (1, 2, 3)},
    "seed 7 read often": {"seed": 7, **READ_OFTEN},
}
UNSUITED: dict[str, tuple[str, dict[str, Any]]] = {  # name -> kind, what is wrong with the recipe
    "too fast": ("instability", {"optimizer__repo_lr_multiplier": 100.0, "max_steps": 2}),
    "too slow": (
        "not_learning",
        {"optimizer__repo_lr_multiplier": 0.0, "model__initializer_range": 0.02, "optimizer__lr": 1e-5, **READ_OFTEN},
    ),
}
BLIND = {"sequence_length": 12, "max_steps": 4}
UNWATCHED = {"rope": "rope", "nope": "nope"}


def configured(root: Path, name: str, **changes: Any) -> RunConfig:
    return tiny(
        root, name=name.replace(" ", "-"), **{**LENGTHS, "micro_batch_size": None, "model__num_layers": 3, **changes}
    )


def found(root: Path, name: str) -> list[dict[str, Any]]:
    return [event for event in events(root, name.replace(" ", "-")) if event["event"] in ("alert", "recovery")]


def run(config: RunConfig, ranks: Ranks, *callbacks: Any) -> tuple[int | str, str]:
    """The exit code of one start of a run, or what it crashed with, and what it printed."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            return train(config, ranks, callbacks), printed.getvalue()
        except (CrashError, BadNumbersError) as error:
            return str(error), printed.getvalue()
        finally:
            freeze_modules()


def for_a_while() -> list[Breaking]:
    """Positions explode, and six steps later are as before."""
    healed = BREAKS + 6
    return [Breaking(scale_final(1e3), ONCE), Breaking(scale_final(1e-3), range(healed, healed + 1))]


def undamaged(ranks: Ranks, root: Path, cases: dict[str, dict[str, Any]]) -> dict[str, list[tuple[int | str, str]]]:
    """Runs as they are, in which a map that does not learn shows after as few steps as they have readings."""
    with mock.patch.object(verdicts, "UNCHANGED_STEPS", verdicts.UNCHANGED_READINGS):
        return {name: [run(configured(root, name, **changes), ranks)] for name, changes in cases.items()}


def on_one_rank(ranks: Ranks, root: Path) -> dict[str, list[tuple[int | str, str]]]:
    seen = {name: [run(configured(root, name, max_steps=16), ranks, make())] for name, (*_, make) in FAILURES.items()}
    seen |= undamaged(ranks, root, {**HEALTHY, **{name: changes for name, (_, changes) in UNSUITED.items()}})
    for name, scheme in UNWATCHED.items():
        positions = PositionsConfig(scheme=scheme)
        seen[name] = [run(configured(root, name, positions=positions, max_steps=2), ranks)]
    config = configured(root, UNTIL_IT_ENDS, position_watch__interval=8, max_steps=24)
    seen[UNTIL_IT_ENDS] = [run(config, ranks, injured(damage.output(damage.not_a_number)))]
    seen["blind"] = [run(configured(root, "blind", **BLIND), ranks)]
    seen["undisturbed"] = [run(configured(root, "undisturbed"), ranks, *for_a_while())]
    stops = [BREAKS + 1, BREAKS + 3, BREAKS + 7, 0]  # after one bad reading, the alert, one good reading
    seen["stopped"] = [
        run(
            configured(root, "stopped"),
            ranks,
            *for_a_while(),
            Probe(Outcome(), stop_rank=0, stop_step=stop, crash_step=0),
        )
        for stop in stops
    ]
    seen["crashed"] = [
        run(
            configured(root, "crashed", checkpoint__interval=BREAKS + 1),
            ranks,
            *for_a_while(),
            Probe(Outcome(), stop_rank=None, stop_step=0, crash_step=crash),
        )
        for crash in (BREAKS + 5, 0)  # the alert is said, the last checkpoint is older
    ]
    return seen


def on_two_ranks(ranks: Ranks, root: Path) -> dict[str, list[int | str]]:
    seen = {}
    for policy, starts in ((AlertPolicy.checkpoint, 1), (AlertPolicy.stop, 2)):
        config = configured(root, policy.value, max_steps=16, position_watch__policy=policy)
        seen[policy.value] = [run(config, ranks, Breaking(scale_final(1e3), ONCE))[0] for _ in range(starts)]
    return seen


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("failures")
    write_tokens(root / "tokens")
    return root


@pytest.fixture(scope="module")
def one(root: Path) -> dict[str, list[tuple[int | str, str]]]:
    [seen] = run_ranks(on_one_rank, 1, root)
    return seen


@pytest.fixture(scope="module")
def other_seeds(root: Path) -> dict[str, list[tuple[int | str, str]]]:
    [seen] = run_ranks(undamaged, 1, root, OTHER_SEEDS)
    return seen


@pytest.fixture(scope="module")
def two(root: Path) -> list[dict[str, list[int | str]]]:
    return run_ranks(on_two_ranks, 2, root)


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_said_once_within_three_readings_and_nothing_else_is(one: Any, root: Path, name: str) -> None:
    kind, where, _ = FAILURES[name]
    assert one[name][0][0] == EXIT_OK
    [alert] = found(root, name)
    assert (alert["event"], alert["kind"], alert["where"]) == ("alert", kind, where)
    assert BREAKS < alert["since"] < alert["step"] <= BREAKS + 3 * INTERVAL
    assert alert["message"].startswith(f"{where}: since step {alert['since']}, ")
    assert f"alert at step {alert['step']}: {alert['message']}" in one[name][0][1]
    assert metrics(root, name.replace(" ", "-"))[-1]["positions/open_alerts"] >= 1


def test_positions_that_are_not_finite_are_said_before_the_run_ends(one: Any, root: Path) -> None:
    assert "were not finite" in str(one[UNTIL_IT_ENDS][0][0])
    [alert] = found(root, UNTIL_IT_ENDS)
    assert (alert["kind"], alert["where"], alert["step"]) == ("not_finite", "layer 1 head 1", BREAKS + 2)


@pytest.mark.parametrize("name", UNSUITED)
def test_a_recipe_that_does_not_suit_the_fresh_parameters_is_said(one: Any, root: Path, name: str) -> None:
    assert [(alert["kind"], alert["where"]) for alert in found(root, name)] == [
        (UNSUITED[name][0], "all learned layers")
    ]


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_run_raises_nothing(one: Any, root: Path, name: str) -> None:
    check_healthy(one, root, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHER_SEEDS)
def test_so_it_is_with_other_seeds(other_seeds: Any, root: Path, name: str) -> None:
    check_healthy(other_seeds, root, name)


def check_healthy(seen: Any, root: Path, name: str) -> None:
    assert seen[name][0][0] == EXIT_OK and found(root, name) == []
    rows = metrics(root, name.replace(" ", "-"))
    num_steps, interval = ({**HEALTHY, **OTHER_SEEDS}[name].get(key, usual) for key, usual in LENGTHS.items())
    expected = sorted({1, *range(interval, num_steps + 1, interval)})
    assert [row["step"] for row in rows if "positions/std" in row] == expected
    assert rows[-1]["positions/open_alerts"] == 0


@pytest.mark.parametrize("name", UNWATCHED)
def test_a_run_without_learned_positions_has_no_watch_and_says_so(one: Any, root: Path, name: str) -> None:
    code, printed = one[name][0]
    assert code == EXIT_OK and f"{name}: no layer learns its positions, so there is no position watch\n" in printed
    assert not [key for row in metrics(root, name) for key in row if key.startswith("positions/")]


def test_a_watch_that_sees_nothing_says_so_once(one: Any) -> None:
    code, printed = one["blind"][0]
    assert code == EXIT_OK and printed.count("so the position watch sees nothing") == 1


def test_an_episode_ends_with_a_recovery(one: Any, root: Path) -> None:
    alert, recovery = found(root, "undisturbed")
    assert (alert["event"], recovery["event"]) == ("alert", "recovery")
    assert alert["kind"] == recovery["kind"] == "explosion" and alert["where"] == recovery["where"]
    assert (alert["since"], alert["step"]) == (BREAKS + 1, BREAKS + 3)
    assert (recovery["since"], recovery["step"]) == (BREAKS + 7, BREAKS + 9)
    assert metrics(root, "undisturbed")[-1]["positions/open_alerts"] == 0


def test_no_alert_is_lost_or_repeated_over_stops(one: Any, root: Path) -> None:
    assert [code for code, _ in one["stopped"]] == [EXIT_STOPPED] * 3 + [EXIT_OK]
    assert found(root, "stopped") == found(root, "undisturbed")
    assert metrics(root, "stopped") == metrics(root, "undisturbed")


def test_no_alert_is_lost_or_repeated_over_a_crash(one: Any, root: Path) -> None:
    assert [code for code, _ in one["crashed"]] == [f"broken after step {BREAKS + 5}", EXIT_OK]
    assert "alert at step" in one["crashed"][0][1] and "alert at step" in one["crashed"][1][1]
    assert found(root, "crashed") == found(root, "undisturbed")


def test_an_alert_saves_a_checkpoint_where_that_is_the_policy(two: Any, root: Path) -> None:
    assert [rank["checkpoint"] for rank in two] == [[EXIT_OK]] * 2
    saved = [(event["event"], event["step"]) for event in events(root, "checkpoint")]
    assert saved == [("start", 0), ("alert", 12), ("checkpoint", 12), ("checkpoint", 16), ("stop", 16)]


def test_an_alert_stops_the_run_where_that_is_the_policy_and_only_once(two: Any, root: Path) -> None:
    assert [rank["stop"] for rank in two] == [[EXIT_ALERTED, EXIT_OK]] * 2
    assert EXIT_ALERTED != EXIT_STOPPED  # which a scheduler may take as leave to start it again
    first = [("start", 0), ("alert", 12), ("checkpoint", 12), ("stop", 12)]
    again = [("resume", 12), ("checkpoint", 16), ("stop", 16)]
    assert [(event["event"], event["step"]) for event in events(root, "stop")] == first + again
    assert [event["reason"] for event in events(root, "stop") if event["event"] == "stop"] == ["alert", "finished"]
