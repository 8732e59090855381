"""The settings of the watchdog (train/watchdog.py), importable without torch."""

from dataclasses import dataclass

from train.errors import TrainError
from train.ranges import check_at_least


@dataclass
class WatchdogConfig:
    """When a rank that is stuck or slow is reported, and when a run that does not move is ended."""

    enabled: bool = True
    """Whether a thread per rank watches for progress."""
    warn_seconds: float = 120.0
    """Seconds without progress after which one line says where the rank is."""
    step_seconds: float = 600.0
    """Seconds without progress within a step after which the run is ended."""
    other_seconds: float = 1500.0
    """The same outside of steps, at most: start, data, first step, saves, evaluation, export."""
    usual_factor: float = 10.0
    """What has been done before in this start has this many times its longest duration, but at least step_seconds."""
    slow_step_factor: float = 4.0
    """A step that takes this many times the median of recent ones is logged."""

    def validate(self) -> None:
        """Raises TrainError with the key, the value and the remedy."""
        check_at_least("watchdog", self, warn_seconds=0.1, step_seconds=0.1, other_seconds=0.1)
        check_at_least("watchdog", self, usual_factor=1, slow_step_factor=1)
        if self.other_seconds < self.step_seconds:
            raise TrainError(
                f"watchdog.other_seconds={self.other_seconds} is below watchdog.step_seconds={self.step_seconds}: a "
                "start, a save or an evaluation may take longer than a step; use at least as many seconds"
            )
