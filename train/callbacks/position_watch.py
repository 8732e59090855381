"""Statistics of RePo's learned positions, to see collapse when it starts.

At an interval, for each RePo layer and head, with z [B, T, H] the positions of a step, and every mean taken over all
rows of the global batch, so that no figure depends on ranks or micro-batches:

    mean    the mean over rows of  mean_t z
    std     the mean over rows of  std_t z               near zero: the head tells no position from another, collapse
    range   the mean over rows of  max_t z - min_t z     the paper's d
    collapsed_share   of a layer, the share of heads whose std is below 0.01

A fresh module starts with small z (it begins as NoPE): a low std in the first steps is no collapse.
"""

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from train.callbacks.callback import Callback
from train.config import PositionWatchConfig

if TYPE_CHECKING:
    from train.trainer import Trainer

COLLAPSE_STD = 0.01
STATISTICS = ("mean", "std", "range")


def row_statistics(z_bth: Tensor) -> Tensor:
    """[3, H] float64: the sums over rows of each row's mean, std and range over its tokens."""
    z = z_bth.detach().double()
    spread = z.amax(dim=1) - z.amin(dim=1)
    return torch.stack([z.mean(dim=1), z.std(dim=1, correction=0), spread]).sum(dim=1)


class PositionWatch(Callback):
    """Listens to the position modules during the steps that are due; costs nothing in between."""

    def __init__(self, config: PositionWatchConfig) -> None:
        self._config = config
        self._hooks: list[Any] = []
        self._sums: dict[int, Tensor] = {}
        self._num_rows: dict[int, int] = {}

    def on_step_start(self, trainer: "Trainer") -> None:
        if trainer.is_logged and (trainer.step == 1 or trainer.step % self._config.interval == 0):
            self._sums, self._num_rows = {}, {}
            self._hooks = [
                module.register_forward_hook(self._listener(layer))
                for layer, module in trainer.engine.model.learned_positions()
            ]

    def on_update(self, trainer: "Trainer") -> None:
        if not self._hooks:
            return
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        layers = sorted(self._sums)
        rows = torch.tensor([self._num_rows[layer] for layer in layers], dtype=torch.float64)
        sums = torch.stack([self._sums[layer] for layer in layers])
        if trainer.ranks.world_size > 1:
            dist.all_reduce(sums)
        means = sums / (rows.to(sums.device) * trainer.ranks.world_size)[:, None, None]
        collapsed = (means[:, STATISTICS.index("std")] < COLLAPSE_STD).double().mean(dim=1)
        for layer, values, share in zip(layers, means, collapsed, strict=True):
            for name, heads in zip(STATISTICS, values, strict=True):
                trainer.record(f"positions/layer_{layer:02d}/{name}", heads)
            trainer.record(f"positions/layer_{layer:02d}/collapsed_share", share)
        trainer.record("positions/collapsed_share", collapsed.mean())

    def _listener(self, layer: int) -> Any:
        def listen(module: nn.Module, inputs: Any, z_bth: Tensor) -> None:
            sums = row_statistics(z_bth)
            self._sums[layer] = self._sums[layer] + sums if layer in self._sums else sums
            self._num_rows[layer] = self._num_rows.get(layer, 0) + len(z_bth)

        return listen
