"""The settings of the position watch (train/callbacks/position_watch.py), importable without torch."""

from dataclasses import dataclass
from enum import Enum

from train.ranges import check_at_least


class AlertPolicy(Enum):
    """What an alert does besides being reported: nothing, save a checkpoint, or save a checkpoint and end the run."""

    warn = "warn"
    checkpoint = "checkpoint"
    stop = "stop"


@dataclass
class PositionWatchConfig:
    """How often RePo's learned positions are read and pictured, and what an alert does."""

    interval: int = 100
    """Steps between readings of the statistics; a multiple of logging.interval."""
    policy: AlertPolicy = AlertPolicy.warn
    """What an alert does besides being reported: nothing, save a checkpoint, or save one and end the run."""
    filtered_rows: bool = False
    """Whether rows that the repetition filter takes out of the loss count in the statistics."""
    probe_interval: int = 1000
    """Steps between pictures of the positions of fixed texts."""
    probe_tokenizer: str | None = None
    """Path or address of a tokenizer.json for these texts; null: the data's, or the one in init_from."""

    def validate(self) -> None:
        """Raises TrainError with the key, the value and the remedy."""
        check_at_least("position_watch", self, interval=1, probe_interval=1)
