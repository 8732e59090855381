"""The config of a run is checked as a whole: ranges, what must fit together, and without torch."""

import subprocess
import sys
from pathlib import Path

import pytest

from data.errors import DataError
from tests.train.tiny import tiny
from train.config import RunConfig, rows_per_rank
from train.errors import TrainError


@pytest.mark.parametrize(
    ("changes", "world_size", "expected"),
    [
        ({}, 1, (4, 128)),
        ({}, 8, (4, 16)),
        ({"micro_batch_size": None}, 8, (64, 1)),
        ({}, 3, "use launch.processes=2, or a global_batch_size that is a multiple of 3"),
        ({"micro_batch_size": 5}, 8, "does not divide a rank's 64 rows .* use micro_batch_size=4"),
        ({"micro_batch_size": 500}, 8, "use micro_batch_size=64"),
    ],
)
def test_the_batch_divides_or_the_error_says_what_would(
    changes: dict[str, int | None], world_size: int, expected: tuple[int, int] | str
) -> None:
    config = RunConfig(name="x", **changes)  # type: ignore[arg-type]
    if isinstance(expected, tuple):
        assert rows_per_rank(config, world_size) == expected
    else:
        with pytest.raises(TrainError, match=expected):
            rows_per_rank(config, world_size)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("seed", -1, "seed=-1 is out of range: it must be a number of at least 0"),
        ("seed", 2**63, "seed=9223372036854775808 is too large: it must be below 2^63"),
        ("max_steps", 0, "max_steps=0 is out of range: it must be a number of at least 1"),
        ("loss__z_loss_weight", -1.0, "loss.z_loss_weight=-1.0 is out of range"),
        ("optimizer__eps", float("inf"), "optimizer.eps=inf is out of range"),
        ("schedule__final_fraction", float("nan"), "schedule.final_fraction=nan is out of range"),
        ("engine__max_skipped_updates", 0, "engine.max_skipped_updates=0 is out of range"),
        ("guard__window", 7, "guard.window=7 is out of range: it must be a number of at least 8"),
        ("position_watch__rollback_factor", 2.0, "position_watch.rollback_factor=2.0 would raise the learning rate"),
        ("position_watch__rollback_factor", 0.0, "position_watch.rollback_factor=0 would leave the positions as they"),
        ("watchdog__other_seconds", 60.0, "watchdog.other_seconds=60.0 is below watchdog.step_seconds=600.0: a start,"),
        ("watchdog__usual_factor", 0.5, "watchdog.usual_factor=0.5 is out of range"),
        ("watchdog__step_seconds", 0.0, "watchdog.step_seconds=0.0 is out of range"),
        ("checkpoint__keep", 0, "checkpoint.keep=0 is out of range"),
        ("evaluation__interval", 0, "evaluation.interval=0 is out of range"),
        ("evaluation__micro_batch_size", 0, "evaluation.micro_batch_size=0 is out of range"),
        ("position_watch__probe_interval", 0, "position_watch.probe_interval=0 is out of range"),
        ("wandb__picture_interval", 0, "wandb.picture_interval=0 is out of range"),
        ("logging__gc_interval", 0, "logging.gc_interval=0 is out of range"),
        ("launch__processes", 0, "launch.processes=0 is out of range"),
    ],
)
def test_a_value_out_of_range_is_refused_by_the_dataclass_that_has_it(
    tmp_path: Path, key: str, value: float, message: str
) -> None:
    with pytest.raises(TrainError) as error:
        tiny(tmp_path, **{key: value}).validate()
    assert str(error.value).startswith(message)


def test_an_address_that_is_a_secret_is_refused_and_not_printed(tmp_path: Path) -> None:
    for scheme in ("http", "HTTPS"):
        with pytest.raises(DataError) as error:
            tiny(tmp_path, data__root=f"{scheme}://me:pass@host/box?sig=s3cret").validate()
        assert str(error.value).startswith(f"data.root must end before its ?, as {scheme.lower()}://host/box: a signed")
        assert "s3cret" not in str(error.value)
    tiny(tmp_path, data__root="folder?").validate()


def test_what_may_be_null_may(tmp_path: Path) -> None:
    tiny(
        tmp_path, micro_batch_size=None, evaluation__interval=None, guard__loss=None, logging__report_seconds=None
    ).validate()


def test_an_evaluation_falls_on_a_logged_step_or_is_off(tmp_path: Path) -> None:
    every_other = {"logging__interval": 2, "position_watch__interval": 2}
    tiny(tmp_path, **every_other, evaluation__interval=4).validate()
    tiny(tmp_path, **every_other, evaluation__interval=3, evaluation__enabled=False).validate()
    with pytest.raises(TrainError, match=r"evaluation\.interval=3 must be a multiple of logging\.interval=2"):
        tiny(tmp_path, **every_other, evaluation__interval=3).validate()


def test_reading_a_config_and_starting_a_launcher_need_no_torch() -> None:
    heavy = {"torch", "deepspeed", "wandb"}
    code = f"import sys, train.compose, train.compose.keys, launch.__main__; sys.exit(str({heavy} & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert ended.stderr == "set()\n"
