"""The settings of the loss (model/loss.py), importable without torch."""

from dataclasses import dataclass
from enum import Enum

from train.ranges import check_at_least


class LossDenominator(Enum):
    """What the summed loss of a global batch is divided by.

    `valid_tokens` counts the labels that contribute: the mean over them. `all_tokens` is rows times sequence length, as
    published: 4095/4096 of the mean where every row contributes, less where the filter takes rows out.
    """

    valid_tokens = "valid_tokens"
    all_tokens = "all_tokens"


@dataclass
class LossConfig:
    """Cross entropy and z-loss."""

    z_loss_weight: float = 1e-4
    """Weight of the z-loss; 1e-4 is what ran: the published trainer never reads the 1e-5 of its public YAML."""
    denominator: LossDenominator = LossDenominator.valid_tokens
    """What the summed loss of a global batch is divided by; all_tokens is as published."""
    answers_after: int | None = None
    """Token after which labels count, up to the end of its document; null: all labels count."""

    def validate(self) -> None:
        """Raises TrainError with the key, the value and the remedy."""
        check_at_least("loss", self, z_loss_weight=0, answers_after=0)
