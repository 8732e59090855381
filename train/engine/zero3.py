"""ZeRO 3: parameters are partitioned as well, one by one, and gathered for as long as a layer needs them.

Each rank holds an equal part of every parameter; the last parts are padded, with undefined values. `ds_tensor` is this
rank's part and `ds_numel` the size of the whole.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from model.weights import Weights
from train.config import RunConfig
from train.distributed import Ranks
from train.engine.config import Precision
from train.engine.engine import MOMENTS
from train.engine.zero import ZeroEngine


class Zero3Engine(ZeroEngine):
    """ZeRO 3 by DeepSpeedZeroOptimizer_Stage3."""

    def __init__(self, config: RunConfig, ranks: Ranks, precision: Precision, weights: Weights | None) -> None:
        super().__init__(config, ranks, precision, weights)
        # Only this stage adds up squares in float64: without this it would clip and apply what the others drop.
        optimizer = self._engine.optimizer
        float64_norms = optimizer._get_norm_groups
        optimizer._get_norm_groups = lambda: [_with_fp32_square(norm) for norm in float64_norms()]

    def close(self) -> None:
        """Gives the process its own `F.linear` back, too: DeepSpeed replaces it for all models that there are."""
        from deepspeed.runtime.zero.partition_parameters import InsertPostInitMethodToModuleSubClasses

        super().close()
        F.linear = InsertPostInitMethodToModuleSubClasses.linear_bk

    def local_value(self, parameter: Any) -> Tensor:
        from deepspeed.utils import safe_get_local_fp32_param

        return self._without_padding(parameter, safe_get_local_fp32_param(parameter).detach())

    def local_gradient(self, parameter: Any) -> Tensor:
        from deepspeed.utils import safe_get_local_grad

        return self._without_padding(parameter, safe_get_local_grad(parameter))

    def local_start(self, parameter: Any) -> int:
        return min(int(parameter.ds_tensor.numel()) * self._rank, int(parameter.ds_numel))

    def _adamw_state(self, parameter: Any) -> dict[str, Tensor]:
        from deepspeed.utils import safe_get_local_optimizer_state

        counters = [state["step"] for state in self._adamw.state.values() if "step" in state]
        if not counters:
            return {}
        parts = {key: safe_get_local_optimizer_state(parameter, key) for key in MOMENTS}
        # An update is of all that this rank holds, so all counters are the same.
        return {"step": counters[0], **{key: self._without_padding(parameter, part) for key, part in parts.items()}}

    def _without_padding(self, parameter: Any, part: Tensor) -> Tensor:
        return part[: max(0, min(len(part), parameter.ds_numel - len(part) * self._rank))]

    def _initial_device(self) -> torch.device:
        # The host holds the whole fp32 model, 4 bytes per parameter and rank. DeepSpeed casts it, moves it to the
        # device whole (_configure_distributed_model), and partitions it there: for a moment that takes 2 bytes per
        # parameter in bf16, before there are masters, moments or activations.
        return torch.device("cpu")

    def _held(self, parameter: Any) -> Tensor:
        part: Tensor = parameter.ds_tensor
        return part

    def _set_master(self, parameter: Any, value: Tensor) -> None:
        from deepspeed.utils import safe_set_local_fp32_param

        safe_set_local_fp32_param(parameter, self._part(parameter, value))

    def _set_moment(self, parameter: Any, key: str, value: Tensor) -> None:
        from deepspeed.utils import safe_set_local_optimizer_state

        safe_set_local_optimizer_state(parameter, self._part(parameter, value), key)

    def _part(self, parameter: Any, value: Tensor) -> Tensor:
        """Returns this rank's part of a whole value, padded with zeros."""
        size = parameter.ds_tensor.numel()
        padded = F.pad(value.flatten(), (0, size * self._world_size - value.numel()))
        return padded[size * self._rank :][:size]

    def _adamw_tensors(self) -> Iterable[Tensor]:
        # AdamW's groups hold them only during a step.
        tensors: list[Tensor] = self._engine.optimizer.fp32_partitioned_groups_flat
        return tensors

    def _grad_norm(self) -> float:
        from deepspeed.runtime.utils import combine_grad_norm_groups

        return float(combine_grad_norm_groups(self._engine.optimizer._get_norm_groups()))

    def _invalidate_gradients(self) -> None:
        from deepspeed.utils import safe_get_local_grad, safe_set_local_grad

        smallest: Any = min(self._engine.module.parameters(), key=lambda parameter: parameter.ds_numel)
        safe_set_local_grad(smallest, torch.full_like(safe_get_local_grad(smallest), math.nan))

    def _run_without_gradient(self, *inputs: Any) -> Any:
        output = super()._run_without_gradient(*inputs)
        self._engine.optimizer.empty_partition_cache()  # what was gathered for a backward pass that does not come
        return output


def _with_fp32_square(norm: Tensor) -> Tensor:
    """Returns a norm, or infinity where its square does not fit into fp32."""
    return torch.where(norm.float().square().isfinite(), norm, math.inf)
