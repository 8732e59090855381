"""The settings of the position watch (train/callbacks/position_watch.py), importable without torch."""

from dataclasses import dataclass
from enum import Enum

from train.errors import TrainError
from train.ranges import check_at_least


class AlertPolicy(Enum):
    """What an alert does besides being reported: nothing, save a checkpoint, save a checkpoint and end the run, or go
    back to the last checkpoint before the failure with a lower learning rate for the positions.
    """

    warn = "warn"
    checkpoint = "checkpoint"
    stop = "stop"
    rollback = "rollback"


@dataclass
class PositionWatchConfig:
    """How often RePo's learned positions are read and pictured, and what an alert does."""

    interval: int = 100
    """Steps between readings of the statistics; a multiple of logging.interval."""
    policy: AlertPolicy = AlertPolicy.warn
    """What an alert does besides being reported: nothing, save a checkpoint, save one and end the run, or roll back."""
    rollback_factor: float = 0.3
    """Multiplies the learning rate of RePo's parameters at each rollback; above 0, at most 1."""
    rollback_warmup_steps: int = 100
    """Steps of a linear warm-up of RePo's parameters after a rollback; 0: none."""
    max_rollbacks: int = 3
    """Rollbacks of a run; the next alert ends it, as with policy=stop."""
    filtered_rows: bool = False
    """Whether rows that the repetition filter takes out of the loss count in the statistics."""
    probe_interval: int = 1000
    """Steps between pictures of the positions of fixed texts."""
    probe_tokenizer: str | None = None
    """Path or address of a tokenizer.json for these texts; null: the data's, or the one in init_from."""

    def validate(self) -> None:
        """Raises TrainError with the key, the value and the remedy."""
        check_at_least(
            "position_watch",
            self,
            interval=1,
            probe_interval=1,
            rollback_factor=0,
            rollback_warmup_steps=0,
            max_rollbacks=0,
        )
        if not self.rollback_factor:
            raise TrainError(
                "position_watch.rollback_factor=0 would leave the positions as they are after a rollback: it must be "
                "above 0"
            )
        if self.rollback_factor > 1:
            raise TrainError(
                f"position_watch.rollback_factor={self.rollback_factor} would raise the learning rate at each "
                "rollback: it must be at most 1"
            )
