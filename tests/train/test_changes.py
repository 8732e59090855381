"""train/changes.py: nothing changes by accident, everything can on purpose."""

from pathlib import Path

import pytest

from train.changes import refuse_changes
from train.errors import TrainError

CHANGES = {"data.sources.web.weight": ("0.6", "0.9"), "sequence_length": (64, 128)}


def test_a_change_is_refused_with_both_values_and_the_way_to_insist() -> None:
    with pytest.raises(TrainError) as error:
        refuse_changes(Path("step-7"), CHANGES, [])
    message = str(error.value)
    assert "data.sources.web.weight was 0.6 and is 0.9; sequence_length was 64 and is 128" in message
    assert "'checkpoint.accept_changes=[data.sources.web.weight,sequence_length]'" in message
    assert "\n" not in message


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
