"""ZeRO 0: plain data parallelism. Every rank holds all parameters, gradients and optimizer state.

fp32 only, so the parameters are their own masters, and DeepSpeed's optimizer is torch's AdamW itself.
"""

import math
from typing import Any

import torch
from torch import Tensor

from model.weights import Weights
from train.config import RunConfig
from train.distributed import Ranks
from train.engine.config import Precision
from train.engine.engine import Accept, Engine, Update


class PlainEngine(Engine):
    """An engine that checks and clips whole gradients itself, since DeepSpeed applies NaN at this stage."""

    def __init__(self, config: RunConfig, ranks: Ranks, precision: Precision, weights: Weights | None) -> None:
        self._max_grad_norm = config.optimizer.max_grad_norm
        super().__init__(config, ranks, precision, weights)

    def local_value(self, parameter: Any) -> Tensor:
        return self._local(parameter.detach())

    def local_gradient(self, parameter: Any) -> Tensor:
        return self._local(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)

    def local_start(self, parameter: Any) -> int:
        return sum(len(part) for part in parameter.detach().flatten().tensor_split(self._world_size)[: self._rank])

    def _local(self, whole: Tensor) -> Tensor:
        """Returns this rank's part of what every rank holds, so that sums over ranks count it once."""
        return whole.flatten().tensor_split(self._world_size)[self._rank]

    def _deepspeed_config(self, config: RunConfig) -> dict[str, Any]:
        return super()._deepspeed_config(config) | {"gradient_clipping": 0.0}

    @property
    def _adamw(self) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = self._engine.optimizer
        return optimizer

    def _update(self, accept: Accept | None) -> Update:
        parameters = [parameter for parameter in self.model.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        grad_norm = float(norm)
        applied = math.isfinite(grad_norm) and (accept is None or accept(grad_norm))
        if not applied:
            for parameter in parameters:
                parameter.grad = None  # AdamW leaves a parameter without a gradient as it is
        elif self._max_grad_norm:
            torch.nn.utils.clip_grads_with_norm_(parameters, self._max_grad_norm, norm)
        self._engine.step()
        return Update(grad_norm, applied)

    def _whole_master(self, parameter: Any) -> Tensor:
        return parameter

    def _adamw_state(self, parameter: Any) -> dict[str, Tensor]:
        state = self._adamw.state.get(parameter, {})
        return {key: value if key == "step" else self._local(value) for key, value in state.items()}

    def _set_moment(self, parameter: Any, key: str, value: Tensor) -> None:
        self._adamw.state[parameter][key].copy_(value.view_as(parameter))
