"""DeepSpeed behind a small face: parameters, gradients and optimizer state, for ZeRO 0, 1, 2 and 3.

DeepSpeed 0.19.8 has faults that a trainer must know of. Each is refused or remedied here, and only here:

- ZeRO 0 with bf16 takes a stray optimizer step at start: refused.
- Gradients accumulate and reduce in the model's dtype by default: set to fp32.
- Master weights are born from the rounded bf16 weights: written again in full precision.
- A non-finite gradient skips the update and goes on (ZeRO 1-3), or destroys every parameter (ZeRO 0): `update` reports
  it, and under ZeRO 0 clips by itself and withholds the gradients (DeepSpeed's clipping fails without any).
- A checkpoint brings back the weight decay, betas and eps it was saved with: `load` sets the configured ones again.
- An optimizer named in its config compiles CUDA code at start, on CPUs too: it is given torch's AdamW instead.
"""

import contextlib
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from model.attention import Documents
from model.loss import LossSums
from model.transformer import Olmo2
from model.weights import Weights, initialise
from train.config import Precision, RunConfig, rows_per_rank
from train.distributed import Ranks
from train.errors import TrainError
from train.optimizer import REPO_GROUP, build_optimizer


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass reads, on the engine's device."""

    tokens_bt: Tensor  # int64
    labels_bt: Tensor  # int64, already shifted, -100 ignored
    documents: Documents | None = None


@dataclass(frozen=True)
class Update:
    """What became of one optimizer update."""

    grad_norm: float  # global L2 norm before clipping; inf or NaN if it was not finite
    applied: bool  # False: the gradients were not finite, and nothing changed


def resolve_precision(precision: Precision, device: torch.device, zero_stage: int) -> Precision:
    """Settles `auto`. Raises TrainError for bf16 with ZeRO 0, whose first updates are wrong in DeepSpeed 0.19.8."""
    if precision is Precision.auto:
        precision = Precision.bf16 if device.type == "cuda" else Precision.fp32
    if precision is Precision.bf16 and zero_stage == 0:
        raise TrainError(
            "engine.zero_stage=0 with bf16 makes wrong first updates in DeepSpeed 0.19.8: "
            "use engine.zero_stage=1 (it works on one process too), or engine.precision=fp32"
        )
    return precision


def deepspeed_config(config: RunConfig, world_size: int, precision: Precision) -> dict[str, Any]:
    """DeepSpeed's own config; `precision` is a resolved one."""
    micro_batch_size, num_micro_batches = rows_per_rank(config, world_size)
    settings: dict[str, Any] = {
        "train_batch_size": config.global_batch_size,
        "train_micro_batch_size_per_gpu": micro_batch_size,
        "gradient_accumulation_steps": num_micro_batches,
        "gradient_clipping": config.optimizer.max_grad_norm if config.engine.zero_stage else 0.0,
        "steps_per_print": 10**9,
        "zero_optimization": {
            "stage": config.engine.zero_stage,
            "overlap_comm": config.engine.overlap_comm,
            "reduce_scatter": True,
            "contiguous_gradients": True,
            "reduce_bucket_size": config.engine.reduce_bucket_size,
        },
    }
    if precision is Precision.bf16:
        settings["bf16"] = {"enabled": True}
        settings["data_types"] = {"grad_accum_dtype": "fp32"}
        settings["communication_data_type"] = "fp32"
    return settings


class Engine:
    """The model in training on this rank, one of `ranks.world_size`.

    Every method but `local_value` and `local_gradient` is collective: all ranks call it, in the same order.
    """

    def __init__(self, config: RunConfig, ranks: Ranks, weights: Weights | None) -> None:
        """Build the model on the meta device, fill it with `weights`, hand it to DeepSpeed.

        `weights` None: leave it unfilled, because `load` follows.
        """
        import deepspeed  # half a second, and it must not happen before Ranks.join has set the accelerator

        self.device = ranks.device
        self.zero_stage = config.engine.zero_stage
        self.precision = resolve_precision(config.engine.precision, ranks.device, self.zero_stage)
        self._rank, self._world_size = ranks.rank, ranks.world_size
        self._max_grad_norm = config.optimizer.max_grad_norm
        settings = deepspeed_config(config, ranks.world_size, self.precision)
        self.micro_batch_size = int(settings["train_micro_batch_size_per_gpu"])
        self.num_micro_batches = int(settings["gradient_accumulation_steps"])
        with torch.device("meta"):
            model = Olmo2(config.model, config.positions, config.loss.z_loss_weight)
        # ZeRO 3 cuts the parameters up one by one and moves them itself: the whole never has to fit on the device, only
        # in the host's memory, 4 bytes a parameter and rank.
        initialise(model, weights or _placeholder, "cpu" if self.zero_stage == 3 else self.device)
        optimizer = build_optimizer(model.named_parameters(), config.optimizer, fused=self.device.type == "cuda")
        self._hyperparameters = [
            {key: group[key] for key in ("weight_decay", "betas", "eps")} for group in optimizer.param_groups
        ]
        with contextlib.redirect_stdout(io.StringIO()):  # ZeRO 1 with bf16 prints memory reports
            self._engine: Any = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)[0]
        if weights is not None and self.precision is Precision.bf16:
            self._restore_masters(weights)

    @property
    def model(self) -> Olmo2:
        """The module in training, for hooks; under ZeRO 3 its parameters are in pieces."""
        module: Olmo2 = self._engine.module
        return module

    def accumulate(self, micro: MicroBatch, denominator: float) -> LossSums:
        """Forward and backward of one micro-batch; the loss that is learned from is `total / denominator`, summed over
        all micro-batches of all ranks. Returns this micro-batch's sums, detached.
        """
        sums: LossSums = self._engine(micro.tokens_bt, micro.labels_bt, micro.documents)
        # DeepSpeed averages over ranks and accumulation steps: undo both.
        self._engine.backward(sums.total * (self._world_size * self.num_micro_batches / denominator))
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()  # only counts the micro-batch
        return LossSums(*(value.detach() for value in sums))

    def update(self, learning_rate: float, repo_factor: float) -> Update:
        """Clip and apply what has accumulated. A non-finite gradient on any rank drops the update on all."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate * (repo_factor if group["name"] == REPO_GROUP else 1.0)
        if self.zero_stage == 0:
            grad_norm = self._clip_plain()
            applied = math.isfinite(grad_norm)
            self._engine.step()
        else:
            self._engine.step()
            grad_norm = float(self._engine.get_global_grad_norm())
            applied = bool(self._engine.was_step_applied())
        return Update(grad_norm, applied)

    def look(self, tokens_bt: Tensor) -> None:
        """One forward pass of [B, T] int64 outside of training, for hooks that listen: no gradient, nothing counted."""
        with torch.no_grad():
            self._engine.module(tokens_bt)
        if self.zero_stage == 3:
            self._engine.empty_partition_cache()  # what was fetched for a backward pass that does not come

    def full_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """(name, whole fp32 value) of every parameter, one at a time, on every rank."""
        from deepspeed.utils import safe_get_full_fp32_param

        for name, parameter in self._engine.module.named_parameters():
            value = parameter if self.zero_stage == 0 else safe_get_full_fp32_param(parameter)
            yield name, value.detach().float()

    def local_value(self, parameter: Any) -> Tensor:
        """This rank's piece of a parameter's fp32 master, flat; every element lies with exactly one rank.

        It may be a view that the next update changes.
        """
        from deepspeed.utils import safe_get_local_fp32_param

        if self.zero_stage == 3:
            return self._without_padding(parameter, safe_get_local_fp32_param(parameter).detach())
        if self.zero_stage == 0:
            return self._share(parameter.detach())
        piece = parameter._hp_mapping  # None: all of it lies with other ranks
        return piece.hp_fragment.detach() if piece is not None else parameter.new_empty(0, dtype=torch.float32)

    def local_gradient(self, parameter: Any) -> Tensor:
        """The same piece of the global batch's gradient, unclipped; only between the last `accumulate` and `update`."""
        from deepspeed.utils import safe_get_local_grad

        if self.zero_stage == 3:
            return self._without_padding(parameter, safe_get_local_grad(parameter))
        if self.zero_stage == 0:
            return self._share(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
        piece = parameter._hp_mapping
        if piece is None:
            return parameter.new_empty(0, dtype=torch.float32)
        gradient = piece.get_lp_grad_fragment(parameter._index_in_param_group).flatten()
        if gradient.numel() == parameter.numel():  # ZeRO 1 with bf16 keeps it whole
            address = piece.lp_fragment_address
            gradient = gradient.narrow(0, address.start, address.numel)
        return gradient

    def save(self, folder: Path) -> None:
        """Write parameters and optimizer state into `folder`. Not atomic: see train/checkpoint.py."""
        self._engine.save_checkpoint(str(folder.parent), tag=folder.name, save_latest=False)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote with the same world size, ZeRO stage and precision."""
        path, _ = self._engine.load_checkpoint(str(folder.parent), tag=folder.name, load_lr_scheduler_states=False)
        if path is None:
            raise TrainError(f"DeepSpeed found nothing to load in {folder}")
        for group, hyperparameters in zip(self._engine.optimizer.param_groups, self._hyperparameters, strict=True):
            group.update(hyperparameters)

    def close(self) -> None:
        """Release DeepSpeed's hooks and buffers."""
        self._engine.destroy()

    def _share(self, whole: Tensor) -> Tensor:
        """This rank's piece of what every rank has."""
        return whole.flatten().tensor_split(self._world_size)[self._rank]

    def _without_padding(self, parameter: Any, piece: Tensor) -> Tensor:
        """ZeRO 3 deals equal pieces, the last of them filled up with anything."""
        return piece[: max(0, min(len(piece), parameter.ds_numel - len(piece) * self._rank))]

    def _restore_masters(self, weights: Weights) -> None:
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param

        for name, parameter in self._engine.module.named_parameters():
            value = weights(name).to(self.device)
            if self.zero_stage == 3:  # not the full setter: it fails where the ranks don't divide the size
                share = parameter.ds_tensor.numel()
                padded = F.pad(value.flatten(), (0, share * self._world_size - value.numel()))
                safe_set_local_fp32_param(parameter, padded[share * self._rank :][:share])
            else:
                safe_set_full_fp32_param(parameter, value)

    def _clip_plain(self) -> float:
        """The global norm of plain gradients, which are then clipped, or taken away if it is not finite."""
        parameters = [parameter for parameter in self._engine.module.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters])
        if not norm.isfinite():
            for parameter in parameters:
                parameter.grad = None  # an optimizer leaves a parameter without gradient alone
        elif self._max_grad_norm:
            torch.nn.utils.clip_grads_with_norm_(parameters, self._max_grad_norm, norm)
        return float(norm)


def _placeholder(name: str) -> Tensor:
    """What parameters hold until a checkpoint fills them."""
    return torch.zeros(())
