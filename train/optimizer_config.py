"""The settings of the optimizer (train/optimizer.py), importable without torch."""

from dataclasses import dataclass, field

from train.errors import TrainError
from train.ranges import check_at_least


@dataclass
class OptimizerConfig:
    """AdamW with the published parameter groups: everything decays except the input embedding."""

    lr: float = 7.4487e-5
    """Peak learning rate; `schedule` says when it is reached and how it falls."""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    """Decay of AdamW's first and second moment, each in [0, 1)."""
    eps: float = 1e-8
    """AdamW's epsilon, added to the root of the second moment."""
    weight_decay: float = 0.1
    """AdamW's decoupled weight decay, multiplied by the learning rate."""
    decay_embeddings: bool = False
    """Whether the input embedding decays as well."""
    decay_norms: bool = True
    """Whether the weights of the norms decay as well."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this global L2 norm over all parameters; 0: never."""
    repo_lr_multiplier: float = 1.0
    """Multiplies the learning rate of RePo's parameters; 1: as published."""
    repo_warmup_steps: int = 0
    """Steps of a linear warm-up of RePo's parameters alone; 0: none, as published."""

    def validate(self) -> None:
        """Raises TrainError with the key, the value and the remedy."""
        check_at_least(
            "optimizer",
            self,
            lr=0,
            eps=0,
            weight_decay=0,
            max_grad_norm=0,
            repo_lr_multiplier=0,
            repo_warmup_steps=0,
        )
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise TrainError(f"optimizer.betas={list(self.betas)} must be two numbers in [0, 1)")
