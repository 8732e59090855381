"""ZeRO 1 and 2: optimizer state, and under ZeRO 2 gradients, are partitioned; every rank holds all parameters.

DeepSpeed lays the masters of a parameter group end to end and cuts the result into one part per rank, so that one rank
or several hold a parameter's master. `parameter._hp_mapping` describes this rank's fragment of it; None means that
this rank holds none.
"""

import math
from typing import Any

import torch
from torch import Tensor

from train.engine.zero import ZeroEngine


class Zero12Engine(ZeroEngine):
    """ZeRO 1 and 2 by DeepSpeedZeroOptimizer: all but ZeRO 1 with bf16."""

    def local_value(self, parameter: Any) -> Tensor:
        fragment = parameter._hp_mapping
        return _empty(parameter) if fragment is None else fragment.hp_fragment.detach()

    def local_gradient(self, parameter: Any) -> Tensor:
        fragment = parameter._hp_mapping
        return _empty(parameter) if fragment is None else self._fragment_gradient(parameter, fragment)

    def local_start(self, parameter: Any) -> int:
        fragment = parameter._hp_mapping
        return 0 if fragment is None else int(fragment.lp_fragment_address.start)

    def _adamw_state(self, parameter: Any) -> dict[str, Tensor]:
        fragment = parameter._hp_mapping
        if fragment is None:
            return {}
        [masters] = self._adamw.param_groups[fragment.param_group_index]["params"]
        address = fragment.hp_fragment_address
        state = self._adamw.state.get(masters, {})
        return {
            key: value if key == "step" else value.narrow(0, address.start, address.numel)
            for key, value in state.items()
        }

    def _fragment_gradient(self, parameter: Any, fragment: Any) -> Tensor:
        gradient: Tensor = fragment.get_lp_grad_fragment(parameter._index_in_param_group)
        return gradient.flatten()

    def _set_master(self, parameter: Any, value: Tensor) -> None:
        from deepspeed.utils import safe_set_full_fp32_param

        safe_set_full_fp32_param(parameter, value)

    def _set_moment(self, parameter: Any, key: str, value: Tensor) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state

        safe_set_full_optimizer_state(parameter, value, key)

    def _create_moments(self, num_updates: int) -> None:
        super()._create_moments(num_updates)
        self._engine.optimizer._lazy_init_hp_params_optimizer_state()  # links each parameter to its fragment of them

    def _grad_norm(self) -> float:
        return float(self._engine.optimizer.scaled_global_norm())

    def _invalidate_gradients(self) -> None:
        # The setter takes a whole value, so the smallest parameter. Only the ranks that hold it get the NaN, but
        # DeepSpeed adds the squared norms of all ranks.
        smallest: Any = min(self.model.parameters(), key=Tensor.numel)
        smallest.set_full_hp_grad(torch.full_like(smallest, math.nan))


class Zero1Bf16Engine(Zero12Engine):
    """ZeRO 1 with bf16 and fp32 accumulation by BF16_Optimizer, in which every rank holds all gradients."""

    def _fragment_gradient(self, parameter: Any, fragment: Any) -> Tensor:
        address = fragment.lp_fragment_address
        return super()._fragment_gradient(parameter, fragment).narrow(0, address.start, address.numel)

    def _grad_norm(self) -> float:
        from deepspeed.runtime.utils import get_global_norm_of_tensors

        optimizer = self._engine.optimizer
        return float(get_global_norm_of_tensors(optimizer.get_grads_for_norm()[0], mpu=optimizer.mpu))

    def _invalidate_gradients(self) -> None:
        self._engine.optimizer.get_grads_for_norm()[0][0].fill_(math.nan)  # on every rank: each checks its own copy


def _empty(parameter: Any) -> Tensor:
    """Returns this rank's part of a parameter that only other ranks hold."""
    part: Tensor = parameter.new_empty(0, dtype=torch.float32)
    return part
