"""The contract of callbacks, and the group that calls them."""

import inspect
from types import SimpleNamespace
from typing import Any

import pytest

from train.callbacks.callback import Callback, StatefulCallback
from train.callbacks.group import CallbackGroup
from train.errors import EXIT_OK, Stop, StopReason

HOOKS = [name for name, _ in inspect.getmembers(Callback, inspect.isfunction) if name.startswith("on_")]
TRAINER: Any = SimpleNamespace()
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "on_skip": ("a reason",),
    "on_metrics": ({},),
    "on_alert": (None,),
    "on_probe": (None,),
    "on_checkpoint": ("step-0000001",),
    "on_save_failed": ("a reason",),
    "on_stop": (Stop(StopReason.finished),),
}


class Recorder(Callback):
    """Records the hooks that are called."""

    def __init__(self) -> None:
        self.called: list[str] = []


class MainRankRecorder(Recorder):
    """The same, on the main rank."""

    main_rank_only = True


def _record(hook: str) -> Any:
    def record(self: Recorder, *_: Any) -> None:
        self.called.append(hook)

    return record


for _hook in HOOKS:
    setattr(Recorder, _hook, _record(_hook))


def group_of(*callbacks: Callback, is_main: bool = True) -> tuple[CallbackGroup, list[str]]:
    """A group of callbacks, and the places that it tells the watchdog."""
    places: list[str] = []
    watchdog: Any = SimpleNamespace(enter=lambda what, of, is_step: places.append(what))
    ranks: Any = SimpleNamespace(is_main=is_main)
    return CallbackGroup(callbacks, ranks, watchdog), places


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_reaches_every_callback(hook: str) -> None:
    first, second = Recorder(), Recorder()
    group, places = group_of(first, second)
    getattr(group, hook)(TRAINER, *ARGUMENTS.get(hook, ()))
    assert first.called == second.called == [hook]
    assert places == [hook, hook]


@pytest.mark.parametrize("hook", HOOKS)
def test_other_ranks_skip_a_main_rank_callback_and_note_the_same_places(hook: str) -> None:
    everywhere, main_only = Recorder(), MainRankRecorder()
    group, places = group_of(everywhere, main_only, is_main=False)
    getattr(group, hook)(TRAINER, *ARGUMENTS.get(hook, ()))
    assert everywhere.called == [hook] and main_only.called == []
    assert places == [hook, hook]


def test_a_callback_that_fails_at_a_stop_keeps_no_other_from_its_own(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Callback):
        def on_stop(self, trainer: Any, stop: Stop) -> None:
            raise OSError("no space left")

        def close(self) -> None:
            raise OSError("no space left")

    after = Recorder()
    group, _ = group_of(Failing(), after)
    group.on_stop(TRAINER, Stop(StopReason.finished))
    assert after.called == ["on_stop"]
    group.close()
    assert [record.getMessage() for record in caplog.records] == [
        "Failing failed at the stop of the run",
        "Failing could not be closed",
    ]


class Counter(StatefulCallback):
    """A callback with state."""

    name = "counter"

    def __init__(self, count: int = 0) -> None:
        self.count = count

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]


def test_state_is_saved_under_the_name_of_its_callback() -> None:
    group, _ = group_of(Recorder(), Counter(3))
    assert group.state_dict() == {"counter": {"count": 3}}
    restored = Counter()
    group_of(restored)[0].load_state_dict({"counter": {"count": 5}, "another version's": {}})
    assert restored.count == 5


def test_a_callback_with_state_needs_a_name_of_its_own() -> None:
    with pytest.raises(TypeError, match="Nameless has state: give it a `name`"):
        type("Nameless", (StatefulCallback,), {})
    with pytest.raises(ValueError, match="different names"):
        group_of(Counter(), Counter())


def test_stop_reasons_have_words_of_their_own_and_only_a_run_that_did_its_steps_is_a_success() -> None:
    assert len({reason.word for reason in StopReason}) == len(StopReason)
    successes = [reason for reason in StopReason if reason.exit_code == EXIT_OK]
    assert successes == [StopReason.finished, StopReason.stop_step]
