"""train/changes.py: nothing changes by accident, everything can on purpose."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.train.tiny import tiny as tiny_config
from train.changes import changed_keys, check_changes, refuse_changes
from train.errors import TrainError

tiny = partial(tiny_config, model__num_layers=3)
CHECKPOINT = Path("runs/mine/checkpoints/step-0000007")
SAVED = tiny(Path()).as_plain()

CHANGES = {"data.sources.web.weight": ("0.6", "0.9"), "sequence_length": (64, 128)}


def test_a_change_is_refused_with_both_values_and_the_way_to_accept_it() -> None:
    with pytest.raises(TrainError) as error:
        refuse_changes(Path("step-7"), CHANGES, [])
    message = str(error.value)
    assert "data.sources.web.weight was 0.6 and is 0.9; sequence_length was 64 and is 128" in message
    assert "'checkpoint.accept_changes=[data.sources.web.weight,sequence_length]'" in message
    assert "\n" not in message


def test_the_same_layers_may_be_stated_in_another_way() -> None:
    start = tiny(Path(), positions__start_layer=None)  # 3 // 3 is the saved start layer
    check_changes(CHECKPOINT, SAVED, start)
    listed = tiny(
        Path(), positions__scheme="list", positions__start_layer=None, positions__layers=["rope", "repo", "repo"]
    )
    check_changes(CHECKPOINT, SAVED, listed)
    with pytest.raises(TrainError, match=r"positions\.start_layer was 1 and is 2"):
        check_changes(CHECKPOINT, SAVED, tiny(Path(), positions__start_layer=2))
    with pytest.raises(TrainError, match=r"positions\.start_layer was null and is 0[.;]"):
        check_changes(CHECKPOINT, start.as_plain(), tiny(Path(), positions__start_layer=0))


@pytest.mark.parametrize("accepted", [["data", "sequence_length"], ["data.sources.web.weight", "sequence_length"]])
def test_what_is_named_is_accepted(accepted: list[str]) -> None:
    refuse_changes(Path("step-7"), CHANGES, accepted)


def test_a_name_accepts_keys_below_it_and_no_others() -> None:
    with pytest.raises(
        TrainError, match=r"another run: sequence_length was 64 .*accept_changes=\[data,sequence_length\]"
    ):
        refuse_changes(Path("step-7"), CHANGES, ["data"])
    with pytest.raises(TrainError, match=r"web\.weight"):
        refuse_changes(Path("step-7"), CHANGES, ["data.sources.we", "sequence_length"])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"model__rms_norm_eps": 1e-5, "global_batch_size": 16},
            "batch_size was 8 and is 16; model.rms_norm_eps was 1e",
        ),
        ({"sequence_length": 24}, "sequence_length was 48 and is 24"),
        ({"mask_documents": True}, "mask_documents was false and is true"),
        ({"model__rope_theta": 1e4}, "model.rope_theta was 500000.0 and is 10000.0"),
    ],
)
def test_another_model_or_other_batches_are_another_run(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(TrainError) as caught:
        check_changes(CHECKPOINT, SAVED, tiny(Path(), **changes))
    message = str(caught.value)
    assert expected in message and "accept it with 'checkpoint.accept_changes=[" in message and "\n" not in message


@pytest.mark.parametrize(
    "changes",
    [
        {"max_steps": 100, "schedule__decay_steps": 200, "optimizer__lr": 1e-5},
        {"micro_batch_size": 1, "engine__zero_stage": 3, "optimizer__decay_embeddings": True},
        {"model__activation_checkpointing": True, "model__loss_chunk_rows": 8},
        {"model__rope_theta": 1e4, "sequence_length": 24, "checkpoint__accept_changes": ["model", "sequence_length"]},
    ],
)
def test_what_fits_may_change_by_itself_or_on_purpose(changes: dict[str, Any]) -> None:
    config = tiny(Path(), **changes)
    check_changes(CHECKPOINT, SAVED, config)
    assert {key.replace("__", ".") for key in changes} == changed_keys(SAVED, config).keys()


@pytest.mark.parametrize(
    "changes", [{"model__hidden_size": 64}, {"positions__start_layer": 2}, {"model__num_layers": 2}]
)
def test_other_parameters_do_not_fit_even_on_purpose(changes: dict[str, Any]) -> None:
    for accepted in ([], ["model", "positions"]):
        config = tiny(Path(), **changes, checkpoint__accept_changes=accepted)
        with pytest.raises(
            TrainError, match=r"has other parameters: .* a name of its own.* init_from=runs/mine "
        ) as caught:
            check_changes(CHECKPOINT, SAVED, config)
        assert "accept it with" not in str(caught.value) and "\n" not in str(caught.value)
