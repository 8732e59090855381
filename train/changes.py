"""What a run that continues may not change by accident: refused with both values, unless it is accepted by name."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from train.errors import TrainError


def refuse_changes(checkpoint: Path, changes: Mapping[str, tuple[Any, Any]], accepted: Sequence[str]) -> None:
    """Raise TrainError for changes (key -> value then, value now) that `checkpoint.accept_changes` does not name.

    A name accepts its key and all keys below it: `data.sources` accepts `data.sources.web.weight`.
    """
    refused = [key for key in changes if not any(key == name or key.startswith(f"{name}.") for name in accepted)]
    if refused:
        details = "; ".join(f"{key} was {changes[key][0]} and is {changes[key][1]}" for key in refused)
        names = ",".join([*accepted, *refused])
        raise TrainError(
            f"{checkpoint} belongs to another run: {details}. Restore this to continue, give the new run a name of "
            f"its own, or insist with 'checkpoint.accept_changes=[{names}]'"
        )
