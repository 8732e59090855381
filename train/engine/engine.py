"""The engine's interface, and what it does alike at every ZeRO stage.

`Engine` is all that the trainer and the callbacks know of parallelism. A subclass says where parameters, masters,
gradients and moments lie at its stage, and how an update is made there.
"""

import contextlib
import io
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.attention import Documents
from model.generate import most_likely
from model.loss import LossSums
from model.transformer import Olmo2
from model.weights import Weights, initialise
from train.config import RunConfig
from train.distributed import Ranks
from train.engine.compilation import Compilation, eager, resolve_compile
from train.engine.config import Precision
from train.engine.settings import deepspeed_config
from train.engine.stopwatch import Stopwatch
from train.errors import TrainError
from train.optimizer import POSITIONS_GROUP, AdamW, adamw_change, build_optimizer, uses_fused_kernel

MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's state of a parameter, besides its step counter
OWN_SETTINGS = ("weight_decay", "betas", "eps", "fused")  # of a parameter group, whatever a checkpoint says

Accept = Callable[[float], bool]  # given the gradient norm, whether to apply the update


@dataclass(frozen=True)
class MicroBatch:
    """The input of one forward pass, on the engine's device."""

    tokens_bt: Tensor  # int64
    labels_bt: Tensor  # int64, already shifted; -100 is ignored
    documents: Documents | None = None  # where attention must not cross; None: nowhere


@dataclass(frozen=True)
class Update:
    """The outcome of one optimizer update."""

    grad_norm: float  # global L2 norm before clipping; inf or NaN if the update was dropped for its numbers
    applied: bool  # False: not finite, or refused; parameters and optimizer state are unchanged


class Engine(ABC):
    """The model in training on this rank, one of `ranks.world_size`.

    Every method is collective, unless it says otherwise: all ranks call it, in the same order.
    """

    def __init__(self, config: RunConfig, ranks: Ranks, precision: Precision, weights: Weights | None) -> None:
        """Builds the model on the meta device, fills it with `weights`, and gives it to DeepSpeed.

        `weights` None leaves it unfilled, because `load` follows. `precision` is a resolved one. Use `build_engine`.
        """
        import deepspeed  # half a second; not before Ranks.join has set the accelerator
        import deepspeed.utils.nvtx
        from deepspeed.runtime.zero.utils import ZERO_SUPPORTED_OPTIMIZERS

        self.device = ranks.device
        self.zero_stage = config.engine.zero_stage
        self.precision = precision
        self.forward_seconds = 0.0
        """Of the last update's micro-batches, on this rank's device."""
        self.backward_seconds = 0.0
        """The same, with the communication that backward passes start (ZeRO 2 and 3)."""
        self.update_seconds = 0.0
        """Of the last update: norm, clipping, optimizer, and its communication."""
        self._rank, self._world_size = ranks.rank, ranks.world_size
        self._forward, self._backward, self._updating = (Stopwatch(ranks.device) for _ in range(3))
        settings = self._deepspeed_config(config)
        self.micro_batch_size = int(settings["train_micro_batch_size_per_gpu"])
        self.num_micro_batches = int(settings["gradient_accumulation_steps"])
        is_compiled = resolve_compile(config.model, ranks.device, config.engine.zero_stage)
        with torch.device("meta"):
            model = Olmo2(config.model, config.positions, config.loss.z_loss_weight)
        initialise(model, weights or _placeholder, self._initial_device())
        self.compilation = Compilation(model, self.device) if is_compiled else None
        """What torch.compile has done; None without it."""
        optimizer = build_optimizer(model.named_parameters(), config.optimizer, fused=uses_fused_kernel(self.device))
        self._hyperparameters = [{key: group[key] for key in OWN_SETTINGS} for group in optimizer.param_groups]
        deepspeed.utils.nvtx.enable_nvtx = self.device.type == "cuda"  # 450 ranges per layer and micro-batch of ZeRO 3
        if AdamW not in ZERO_SUPPORTED_OPTIMIZERS:  # DeepSpeed would warn of a class that it has not tried
            ZERO_SUPPORTED_OPTIMIZERS.append(AdamW)
        with contextlib.redirect_stdout(io.StringIO()):  # ZeRO 1 with bf16 prints memory reports
            self._engine: Any = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)[0]

    @property
    def model(self) -> Olmo2:
        """The module in training, for hooks; under ZeRO 3 its parameters are partitioned."""
        module: Olmo2 = self._engine.module
        return module

    def accumulate(self, micro: MicroBatch, denominator: float) -> LossSums:
        """Runs forward and backward of one micro-batch, and returns its loss sums, detached.

        The loss of an update is `total / denominator`, summed over all micro-batches of all ranks.
        """
        if self.compilation is None:
            return self._accumulate(micro, denominator)
        with self.compilation.watched(micro.tokens_bt.shape):
            return self._accumulate(micro, denominator)

    def _accumulate(self, micro: MicroBatch, denominator: float) -> LossSums:
        with self._forward:
            sums: LossSums = self._engine(micro.tokens_bt, micro.labels_bt, micro.documents)
        # DeepSpeed averages over ranks and accumulation steps: undo both. An infinite loss can have finite gradients
        # (overflow in a square): NaN keeps them from passing for good ones.
        scale = self._world_size * self.num_micro_batches / denominator
        with self._backward:
            self._engine.backward(sums.total * torch.where(sums.total.isfinite(), scale, math.nan))
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()  # only counts the micro-batch
        return sums.detach()

    def evaluate(self, micro: MicroBatch) -> LossSums:
        """Returns the loss sums of one micro-batch at the present weights, without a gradient, `ce_bt` included.

        For validation data, at any time between other calls: between updates, but also between micro-batches and
        before an update. Nothing is counted or changed: no micro-step, no accumulated gradient, no `forward_seconds`,
        no random number. What follows is the same to the bit as without it. The sums are those of `accumulate` for the
        same rows and weights; they are this rank's, not yet added over ranks.

        Forward hooks on the model do run. One that counts what is trained on checks `torch.is_grad_enabled()`, which
        is False here. Collective under ZeRO 3 only: there all ranks call it equally often, with any number of rows.
        """
        sums: LossSums = self._run_without_gradient(micro.tokens_bt, micro.labels_bt, micro.documents)
        return sums

    def continued(self, tokens_t: Tensor, max_new_tokens: int, eos_token_ids: Collection[int]) -> list[int]:
        """Returns the most likely tokens after `tokens_t` ([T] int64) at the present weights, up to an EOS or so many.

        As with `evaluate`, what follows is the same to the bit as without it. Not collective; not under ZeRO 3, where a
        rank alone has no whole weights.
        """
        assert self.zero_stage < 3
        with eager(self.compilation):
            return most_likely(self.model, tokens_t, max_new_tokens, eos_token_ids)

    def forward_only(self, tokens_bt: Tensor) -> None:
        """Runs one forward pass of `tokens_bt` ([B, T] int64) for the hooks on the model, as `evaluate` does."""
        self._run_without_gradient(tokens_bt)

    def update(self, learning_rate: float, positions_factor: float, accept: Accept | None = None) -> Update:
        """Clips and applies the accumulated gradient. A non-finite gradient or loss on any rank drops it on all.

        A norm above 1.8e19, whose square does not fit into fp32, counts as not finite at every ZeRO stage.

        `accept` is called with a finite norm before anything changes, and returns False to refuse the update. It must
        give the same answer on all ranks. `positions_factor` multiplies the learning rate of the learned
        positions.
        """
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate * (positions_factor if group["name"] == POSITIONS_GROUP else 1.0)
        with self._updating:
            update = self._update(accept)
        # The norm has been read, so the host has waited for the device already.
        self.forward_seconds, self.backward_seconds = self._forward.lap(), self._backward.lap()
        self.update_seconds = self._updating.lap()
        return update

    def is_finite(self) -> bool:
        """Returns whether all that this rank holds of parameters, masters and moments is finite. Not collective."""
        held = [self._held(parameter) for parameter in self.model.parameters()]
        for master, state in self._adamw.state.items():
            held += [master, *(value for value in state.values() if isinstance(value, Tensor))]
        # The largest magnitude: one pass without a temporary copy, and NaN and infinity come through.
        peaks = [torch.linalg.vector_norm(t.detach(), math.inf).float() for t in held if t.is_floating_point()]
        return bool(torch.stack([peak.to(self.device) for peak in peaks]).isfinite().all())

    def full_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Yields (name, whole fp32 value) of every parameter, one at a time, on every rank."""
        for name, parameter in self.model.named_parameters():
            yield name, self._whole_master(parameter).detach().float()

    @abstractmethod
    def local_value(self, parameter: Any) -> Tensor:
        """Returns this rank's part of a parameter's fp32 master, flat; every element is on exactly one rank.

        It may be a view that the next update changes. Not collective.
        """

    @abstractmethod
    def local_gradient(self, parameter: Any) -> Tensor:
        """Returns the same part of the global batch's gradient, before clipping. Not collective.

        Only between the last `accumulate` and `update`.
        """

    @abstractmethod
    def local_start(self, parameter: Any) -> int:
        """Returns the index in the flat parameter at which `local_value` and `local_gradient` begin. Not collective."""

    def num_updates(self, parameter: Any) -> Tensor:
        """Returns a copy of AdamW's counter of this rank's part of a parameter, on this rank's device; 0 at the start.

        Not collective.
        """
        counter = self._adamw_state(parameter).get("step", torch.zeros(()))
        return counter.detach().to(self.device, copy=True)

    def local_change(self, parameter: Any, before: Tensor, num_before: Tensor) -> Tensor:
        """Returns what the last update adds to `before` by AdamW's rule, flat float64; zero if it was dropped.

        `before` is what `local_value` was, of a map of learned positions, and `num_before` what `num_updates` was. The
        rate is that of the update, all else as configured; the moments are those after it. Not collective.
        """
        state, num_updates = self._adamw_state(parameter), self.num_updates(parameter)
        if not len(before) or "step" not in state:
            return torch.zeros_like(before, dtype=torch.float64)
        names = [group["name"] for group in self._engine.optimizer.param_groups]
        number = names.index(POSITIONS_GROUP)
        group = self._hyperparameters[number] | {"lr": self._engine.optimizer.param_groups[number]["lr"]}
        change = adamw_change(before, state["exp_avg"], state["exp_avg_sq"], num_updates, group)
        return change * (num_updates > num_before)

    def save(self, folder: Path, write: Callable[[Any, Path], None]) -> None:
        """Passes parameters and optimizer state to `write(state, path)`, once per file of this rank in `folder`.

        `write` serialises the state before it returns, since training goes on in the same tensors, and raises nothing:
        the other ranks would wait in the middle of a save.
        """
        from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine

        class CallbackCheckpointEngine(TorchCheckpointEngine):
            def save(self, state_dict: Any, path: str) -> None:
                write(state_dict, Path(path))

        self._engine.checkpoint_engine = CallbackCheckpointEngine(self._engine._config)
        self._engine._copy_recovery_script = lambda path: None  # fails on a full disk, and leaves the others waiting
        self._engine.save_checkpoint(str(folder.parent), tag=folder.name, save_latest=False)

    def load(self, folder: Path) -> None:
        """Reads what `save` wrote in the same layout: world size, ZeRO stage, precision and parameter groups.

        Raises TrainError if DeepSpeed finds no files of its own in `folder`.
        """
        path, _ = self._engine.load_checkpoint(str(folder.parent), tag=folder.name, load_lr_scheduler_states=False)
        if path is None:
            raise TrainError(f"DeepSpeed found nothing to load in {folder}")
        for group, hyperparameters in zip(self._engine.optimizer.param_groups, self._hyperparameters, strict=True):
            group.update(hyperparameters)
        for tensor, state in self._adamw.state.items():
            if "step" in state:
                state["step"] = self._step_counter(float(state["step"]), tensor)

    def load_optimizer(self, moment: Callable[[str, str], Tensor], num_updates: int) -> None:
        """Sets AdamW's state after `num_updates` updates from whole tensors, in any layout, before the first update.

        `moment(name, key)` returns `exp_avg` or `exp_avg_sq` of a parameter: fp32, in its shape or flat.
        """
        self._create_moments(num_updates)
        for name, parameter in self.model.named_parameters():
            for key in MOMENTS:
                self._set_moment(parameter, key, moment(name, key).to(self.device))

    def close(self) -> None:
        """Releases DeepSpeed's hooks and buffers."""
        self._engine.destroy()

    # What differs by stage.

    @property
    @abstractmethod
    def _adamw(self) -> torch.optim.Optimizer:
        """torch's AdamW, which DeepSpeed may wrap."""

    @abstractmethod
    def _update(self, accept: Accept | None) -> Update:
        """Makes the update, with the learning rates already set, or drops it and the gradients."""

    @abstractmethod
    def _whole_master(self, parameter: Any) -> Tensor:
        """Returns the whole fp32 value of a parameter."""

    @abstractmethod
    def _adamw_state(self, parameter: Any) -> dict[str, Tensor]:
        """Returns AdamW's moments of what `local_value` returns, flat, and its counter `step`; empty before any."""

    @abstractmethod
    def _set_moment(self, parameter: Any, key: str, value: Tensor) -> None:
        """Sets one of AdamW's moments, which exist already, from a whole value."""

    def _adamw_tensors(self) -> Iterable[Tensor]:
        """Returns the tensors that AdamW updates, which are the keys of its state."""
        return (tensor for group in self._adamw.param_groups for tensor in group["params"])

    def _create_moments(self, num_updates: int) -> None:
        """Makes AdamW's state after `num_updates`, which torch makes in the first step, with moments of zero."""
        for tensor in self._adamw_tensors():
            counter = self._step_counter(float(num_updates), tensor)
            self._adamw.state[tensor] = {"step": counter, **{key: torch.zeros_like(tensor) for key in MOMENTS}}

    def _step_counter(self, num_updates: float, tensor: Tensor) -> Tensor:
        """Returns AdamW's step counter of a tensor where its kernel reads it."""
        is_fused = self._adamw.defaults["fused"]
        return torch.tensor(num_updates, dtype=torch.float32, device=tensor.device if is_fused else "cpu")

    def _deepspeed_config(self, config: RunConfig) -> dict[str, Any]:
        return deepspeed_config(config, self._world_size, self.precision)

    def _initial_device(self) -> torch.device:
        """Returns where the whole model is filled, before DeepSpeed gets it."""
        return self.device

    def _held(self, parameter: Any) -> Tensor:
        """Returns what this rank keeps of a parameter, in the model's dtype."""
        return parameter

    def _run_without_gradient(self, *inputs: Any) -> Any:
        # The module itself: DeepSpeed's own forward would clear what it remembers of a backward pass.
        with torch.no_grad(), eager(self.compilation):
            return self._engine.module(*inputs)


def _placeholder(name: str) -> Tensor:
    """Returns what parameters hold until a checkpoint is loaded."""
    return torch.zeros(())
