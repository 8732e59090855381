"""Learning rate as a pure function of the step: linear warm-up, then linear decay.

The step is counted before the update, as in the published trainer (reference: OLMo's `linear_with_warmup`): the first
update uses step 1, and `decay_steps` is where the decay ends, after which the rate stays at its floor.
"""

from train.config import OptimizerConfig, ScheduleConfig


def learning_rate(step: int, peak: float, schedule: ScheduleConfig) -> float:
    """The rate of update `step` (1, 2, ...)."""
    floor = peak * schedule.final_fraction
    if step < schedule.warmup_steps:
        return peak * step / schedule.warmup_steps
    if step >= schedule.decay_steps:
        return floor
    progress = (step - schedule.warmup_steps) / (schedule.decay_steps - schedule.warmup_steps)
    return peak - (peak - floor) * progress


def repo_factor(step: int, optimizer: OptimizerConfig) -> float:
    """What the rate of RePo's parameters is multiplied by at update `step`: their own multiplier and warm-up."""
    warmup = min(1.0, step / optimizer.repo_warmup_steps) if optimizer.repo_warmup_steps else 1.0
    return optimizer.repo_lr_multiplier * warmup
