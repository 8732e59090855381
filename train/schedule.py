"""Learning rate as a pure function of the step: linear warm-up, then linear decay.

The step is counted before the update, as in the published trainer (reference: OLMo's `linear_with_warmup`): the first
update uses step 1, and `decay_steps` is where the decay ends, after which the rate stays at its floor.
"""

from dataclasses import dataclass

from train.errors import TrainError
from train.optimizer_config import OptimizerConfig
from train.ranges import check_at_least


@dataclass
class ScheduleConfig:
    """Linear warm-up from 0 to optimizer.lr, then linear decay."""

    warmup_steps: int = 0
    """Steps until the rate reaches optimizer.lr; 0: the decay begins at once."""
    decay_steps: int = 23842
    """Step from which on the rate is at its floor; as published, ceil(50e9 tokens / (512 * 4096))."""
    final_fraction: float = 0.0
    """The floor, as a fraction of optimizer.lr."""

    def validate(self) -> None:
        """Raises TrainError with the key, the value and the remedy."""
        check_at_least("schedule", self, final_fraction=0, warmup_steps=0)
        if self.decay_steps <= self.warmup_steps:
            raise TrainError(
                f"schedule.decay_steps={self.decay_steps} must be larger than schedule.warmup_steps={self.warmup_steps}"
            )


def learning_rate(step: int, peak: float, schedule: ScheduleConfig) -> float:
    """Returns the rate of update `step` (1, 2, ...), where `peak` is the highest rate."""
    floor = peak * schedule.final_fraction
    if step < schedule.warmup_steps:
        return peak * step / schedule.warmup_steps
    if step >= schedule.decay_steps:
        return floor
    progress = (step - schedule.warmup_steps) / (schedule.decay_steps - schedule.warmup_steps)
    return peak - (peak - floor) * progress


def positions_factor(step: int, optimizer: OptimizerConfig) -> float:
    """Returns the factor on the rate of learned positions at update `step`: their own multiplier and warm-up."""
    warmup = min(1.0, step / optimizer.repo_warmup_steps) if optimizer.repo_warmup_steps else 1.0
    return optimizer.repo_lr_multiplier * warmup
