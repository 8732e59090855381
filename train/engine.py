"""DeepSpeed behind a small face: parameters, gradients and optimizer state, for ZeRO 0, 1, 2 and 3.

DeepSpeed 0.19.8 has faults that a trainer must know of. Each is refused or remedied here, and only here:

- ZeRO 0 with bf16 takes a stray optimizer step at start: refused.
- Gradients accumulate and reduce in the model's dtype by default: set to fp32.
- Master weights are born from the rounded bf16 weights: written again in full precision.
- A non-finite gradient skips the update and goes on (ZeRO 1-3), or destroys every parameter (ZeRO 0): `update` reports
  it, and under ZeRO 0 clips by itself and withholds the gradients (DeepSpeed's clipping fails without any). A loss that
  is not finite is not looked at: `accumulate` has it spoil its gradient. There is no way to refuse an update: `update`
  has DeepSpeed do it by its own rule, with a NaN in one gradient.
- A checkpoint brings back the weight decay, betas and eps it was saved with: `load` sets the configured ones again.
- A checkpoint of another layout loads wrongly or not at all (train/checkpoint/universal.py): `load_optimizer` fills the
  moments tensor by tensor instead, each group with a step counter of its own.
- An optimizer named in its config compiles CUDA code at start, on CPUs too: it is given torch's AdamW instead.
"""

import contextlib
import io
import math
from collections.abc import Callable, Iterator
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
from train.config import RunConfig, rows_per_rank
from train.distributed import Ranks
from train.engine_config import Precision
from train.errors import TrainError
from train.optimizer import REPO_GROUP, build_optimizer
from train.stopwatch import Stopwatch

MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's state of a parameter, besides the step


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass reads, on the engine's device."""

    tokens_bt: Tensor  # int64
    labels_bt: Tensor  # int64, already shifted, -100 ignored
    documents: Documents | None = None


@dataclass(frozen=True)
class Update:
    """What became of one optimizer update."""

    grad_norm: float  # global L2 norm before clipping; inf or NaN if the gradients or a loss were not finite
    applied: bool  # False: they were not finite, or the update was refused; nothing changed


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
        self.forward_seconds = 0.0  # of the last update's micro-batches, on this rank's device
        self._forward = Stopwatch(ranks.device)
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
        with self._forward:
            sums: LossSums = self._engine(micro.tokens_bt, micro.labels_bt, micro.documents)
        # DeepSpeed averages over ranks and accumulation steps: undo both. An infinite loss can have finite gradients
        # (overflow in a square): they must not pass for good ones.
        scale = self._world_size * self.num_micro_batches / denominator
        self._engine.backward(sums.total * torch.where(sums.total.isfinite(), scale, math.nan))
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()  # only counts the micro-batch
        return LossSums(*(value.detach() for value in sums))

    def update(self, learning_rate: float, repo_factor: float, accept: Callable[[float], bool] | None = None) -> Update:
        """Clip and apply what has accumulated. A non-finite gradient or loss on any rank drops the update on all.

        `accept` is asked with a finite norm, before anything changes, and may refuse the update: it must give the same
        answer on all ranks.
        """
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate * (repo_factor if group["name"] == REPO_GROUP else 1.0)
        update = self._update_plain(accept) if self.zero_stage == 0 else self._update_zero(accept)
        self.forward_seconds = self._forward.take()  # the norm has been read: the device is past the forward passes
        return update

    def is_finite(self) -> bool:
        """Whether all that this rank holds of parameters, masters and optimizer state is finite. Not collective."""
        optimizer = getattr(self._engine.optimizer, "optimizer", self._engine.optimizer)
        held = [getattr(parameter, "ds_tensor", parameter) for parameter in self._engine.module.parameters()]
        for master, state in optimizer.state.items():
            held += [master, *(value for value in state.values() if isinstance(value, Tensor))]
        # The largest magnitude: one pass without a temporary copy, and NaN and infinity come through.
        peaks = [torch.linalg.vector_norm(t.detach(), math.inf).float() for t in held if t.is_floating_point()]
        return bool(torch.stack([peak.to(self.device) for peak in peaks]).isfinite().all())

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

    def save(self, folder: Path, write: Callable[[Any, Path], None]) -> None:
        """Hand parameters and optimizer state to `write(state, path)`, once for each of this rank's files in `folder`.

        `write` serialises the state before it returns, since training goes on in the same tensors, and raises nothing.
        """
        from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine

        class Handing(TorchCheckpointEngine):
            def save(self, state_dict: Any, path: str) -> None:
                write(state_dict, Path(path))

        self._engine.checkpoint_engine = Handing(self._engine._config)
        self._engine._copy_recovery_script = lambda path: None  # it would fail on a full disk, and leave ranks waiting
        self._engine.save_checkpoint(str(folder.parent), tag=folder.name, save_latest=False)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote in the same layout: world size, ZeRO stage, precision and parameter groups."""
        path, _ = self._engine.load_checkpoint(str(folder.parent), tag=folder.name, load_lr_scheduler_states=False)
        if path is None:
            raise TrainError(f"DeepSpeed found nothing to load in {folder}")
        for group, hyperparameters in zip(self._engine.optimizer.param_groups, self._hyperparameters, strict=True):
            group.update(hyperparameters)

    def load_optimizer(self, moment: Callable[[str, str], Tensor], num_updates: int) -> None:
        """Set AdamW's state after `num_updates` from whole tensors, in any layout.

        `moment(name, key)` is `exp_avg` or `exp_avg_sq` of a parameter: fp32, in its shape or flat.
        """
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        outer = self._engine.optimizer
        optimizer = (
            outer.optimizer if self.zero_stage else outer
        )  # torch's AdamW, whose state is made at its first step
        flat = [p for group in optimizer.param_groups for p in group["params"]]
        for tensor in outer.fp32_partitioned_groups_flat if self.zero_stage == 3 else flat:
            counter = torch.tensor(float(num_updates), device=tensor.device if optimizer.defaults["fused"] else "cpu")
            optimizer.state[tensor] = {"step": counter, **{key: torch.zeros_like(tensor) for key in MOMENTS}}
        if self.zero_stage in (1, 2):
            outer._lazy_init_hp_params_optimizer_state()  # DeepSpeed's view of it, by parameter
        for name, parameter in self._engine.module.named_parameters():
            for key in MOMENTS:
                value = moment(name, key).to(self.device)
                if self.zero_stage == 0:
                    optimizer.state[parameter][key].copy_(value.view_as(parameter))
                elif self.zero_stage == 3:
                    safe_set_local_optimizer_state(parameter, self._piece(parameter, value), key)
                else:
                    safe_set_full_optimizer_state(parameter, value, key)

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
            if self.zero_stage == 3:
                safe_set_local_fp32_param(parameter, self._piece(parameter, value))
            else:
                safe_set_full_fp32_param(parameter, value)

    def _piece(self, parameter: Any, value: Tensor) -> Tensor:
        """This rank's part of a whole value under ZeRO 3, whose full setter fails where ranks don't divide the size."""
        share = parameter.ds_tensor.numel()
        padded = F.pad(value.flatten(), (0, share * self._world_size - value.numel()))
        return padded[share * self._rank :][:share]

    def _update_zero(self, accept: Callable[[float], bool] | None) -> Update:
        """`update` by DeepSpeed's step, which drops non-finite gradients itself."""
        refused_norm = None
        if accept is not None:
            norm = self._grad_norm()
            if math.isfinite(norm) and not accept(norm):
                refused_norm = norm
                self._spoil_gradients()
        self._engine.step()
        applied = bool(self._engine.was_step_applied())
        return Update(refused_norm if refused_norm is not None else float(self._engine.get_global_grad_norm()), applied)

    def _update_plain(self, accept: Callable[[float], bool] | None) -> Update:
        """`update` for plain gradients: clipped, or taken away if they are not to be applied."""
        parameters = [parameter for parameter in self._engine.module.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters])
        grad_norm = float(norm)
        applied = math.isfinite(grad_norm) and (accept is None or accept(grad_norm))
        if not applied:
            for parameter in parameters:
                parameter.grad = None  # an optimizer leaves a parameter without gradient alone
        elif self._max_grad_norm:
            torch.nn.utils.clip_grads_with_norm_(parameters, self._max_grad_norm, norm)
        self._engine.step()
        return Update(grad_norm, applied)

    def _grad_norm(self) -> float:
        """The global norm as DeepSpeed's step is about to find it (ZeRO 1-3), over all ranks."""
        from deepspeed.runtime.utils import combine_grad_norm_groups, get_global_norm_of_tensors

        optimizer = self._engine.optimizer
        if self.zero_stage == 3:
            return float(combine_grad_norm_groups(optimizer._get_norm_groups()))
        if hasattr(optimizer, "scaled_global_norm"):
            return float(optimizer.scaled_global_norm())
        # ZeRO 1 with bf16 has an optimizer class of its own
        return float(get_global_norm_of_tensors(optimizer.get_grads_for_norm()[0], mpu=optimizer.mpu))

    def _spoil_gradients(self) -> None:
        """A NaN in the smallest gradient, where DeepSpeed's step looks for one; all ranks call it."""
        from deepspeed.utils import safe_get_local_grad, safe_set_local_grad

        optimizer = self._engine.optimizer
        smallest: Any = min(self._engine.module.parameters(), key=lambda p: getattr(p, "ds_numel", p.numel()))
        if self.zero_stage == 3:
            safe_set_local_grad(smallest, torch.full_like(safe_get_local_grad(smallest), math.nan))
        elif hasattr(optimizer, "scaled_global_norm"):
            smallest.set_full_hp_grad(torch.full_like(smallest, math.nan))  # where its piece lies; norms are summed
        else:
            optimizer.get_grads_for_norm()[0][0].fill_(math.nan)  # every rank has all gradients and judges by itself


def _placeholder(name: str) -> Tensor:
    """What parameters hold until a checkpoint fills them."""
    return torch.zeros(())
