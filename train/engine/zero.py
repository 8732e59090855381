"""What ZeRO 1, 2 and 3 share: masters lie in DeepSpeed's optimizer, and its step checks, clips and applies."""

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from model.weights import Weights
from train.config import RunConfig
from train.distributed import Ranks
from train.engine.config import Precision
from train.engine.engine import Accept, Engine, Update


class ZeroEngine(Engine):
    """An engine whose update is DeepSpeed's step, which drops non-finite gradients on all ranks by itself."""

    def __init__(self, config: RunConfig, ranks: Ranks, precision: Precision, weights: Weights | None) -> None:
        super().__init__(config, ranks, precision, weights)
        if weights is not None and precision is Precision.bf16:  # DeepSpeed made the masters from rounded weights
            for name, parameter in self.model.named_parameters():
                self._set_master(parameter, weights(name).to(self.device))

    @property
    def _adamw(self) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = self._engine.optimizer.optimizer
        return optimizer

    def _update(self, accept: Accept | None) -> Update:
        refused_norm = None
        if accept is not None:
            norm = self._grad_norm()
            if math.isfinite(norm) and not accept(norm):
                refused_norm = norm
                self._invalidate_gradients()
        self._engine.step()
        applied = bool(self._engine.was_step_applied())
        return Update(refused_norm if refused_norm is not None else float(self._engine.get_global_grad_norm()), applied)

    def _whole_master(self, parameter: Any) -> Tensor:
        from deepspeed.utils import safe_get_full_fp32_param

        value: Tensor = safe_get_full_fp32_param(parameter)
        return value

    @abstractmethod
    def _set_master(self, parameter: Any, value: Tensor) -> None:
        """Sets the fp32 master from a whole value."""

    @abstractmethod
    def _grad_norm(self) -> float:
        """Returns the global norm over all ranks, as DeepSpeed's step is about to compute it."""

    @abstractmethod
    def _invalidate_gradients(self) -> None:
        """Puts a NaN into a gradient where DeepSpeed's step looks for one, so that it drops the update."""
