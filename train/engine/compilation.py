"""torch.compile for the blocks of a model in training, split so that hooks see what they saw.

Two functions are compiled, each into one graph without breaks, and all layers of a kind share their graphs: what makes
q, k and v of a block's input and its positions (norms, rotation), and what follows attention (norms, SwiGLU,
residuals). Everything between them stays eager:

- the positions. A hook on a module inside a compiled graph never runs if it was added after compiling, and the position
  watch adds and removes its hooks at every reading. So positions are also the same to the bit with and without it.
- attention, which is one kernel in either case. The documents of a micro-batch reach nothing else: their boundaries,
  which change every time, are no part of a graph.
- the loss, which is written with its own backward pass.

Without a gradient (validation rows, probe texts, a reading's checks) the model runs eager: other shapes would make
further graphs. A graph holds for one shape. Training has one, since micro-batches divide the batch; if another comes,
its graphs are made, counted and reported, and after MAX_SHAPES the run ends in one line.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from types import FunctionType
from typing import Any

import torch

from model.config import ModelConfig
from model.norm_rotate import kernel_works
from model.transformer import Attention, Block, Olmo2
from train.engine.config import compiles_blocks
from train.errors import TrainError

BACKEND = "inductor"
MAX_SHAPES = 4  # of micro-batches, each with graphs of its own
MAX_KINDS = 3  # of layers: positions per head, one position for all heads, none


def resolve_compile(config: ModelConfig, device: torch.device, zero_stage: int) -> bool:
    """Returns whether blocks are compiled on `device`. Raises TrainError as `compiles_blocks` does."""
    return compiles_blocks(config.compile, on_gpu=device.type == "cuda", zero_stage=zero_stage)


class Compilation:
    """The compiled functions of a model's blocks, and how many graphs they have needed."""

    def __init__(self, model: Olmo2, device: torch.device) -> None:
        """Replaces functions of the blocks of `model`; nothing is compiled before the first micro-batch on `device`."""
        self.num_graphs = 0
        """Graphs compiled so far, forward and backward counted as one."""
        self.seconds = 0.0
        """Duration of the micro-batches that compiled."""
        self.shape: tuple[int, ...] = ()
        """Of the last micro-batch that compiled."""
        import torch._dynamo

        torch._dynamo.config.recompile_limit = MAX_SHAPES * MAX_KINDS
        torch.compiler.assume_constant_result(kernel_works)
        model.frequencies.turns(device)  # copied now: a copy that is first made inside a graph would compile it twice
        heads, after_attention = (self._compiled(function) for function in (Attention.heads, Block.after_attention))
        for block in model.layers:
            assert isinstance(block, Block)
            # Attributes of the modules, in front of the methods of their classes: names of parameters stay.
            setattr(block.attention, "heads", partial(heads, block.attention))  # noqa: B010 - no assignment to a method
            setattr(block, "after_attention", partial(after_attention, block))  # noqa: B010

    def _compiled(self, function: Any) -> Callable[..., Any]:
        # torch keeps graphs, and counts them, with the code: a copy of it, so that each model has its own.
        code = function.__code__.replace()
        own = FunctionType(code, function.__globals__, function.__name__, function.__defaults__)
        compiled: Callable[..., Any] = torch.compile(own, backend=self._counted, fullgraph=True, dynamic=False)
        return compiled

    def _counted(self, graph: Any, inputs: Any) -> Any:
        from torch._dynamo.backends.registry import lookup_backend

        self.num_graphs += 1
        return lookup_backend(BACKEND)(graph, inputs)

    @contextmanager
    def watched(self, shape: torch.Size) -> Iterator[None]:
        """Measures a micro-batch of this shape if it compiles. Raises TrainError if there were too many shapes."""
        import torch._dynamo

        before, start = self.num_graphs, time.perf_counter()
        try:
            yield
        except torch._dynamo.exc.FailOnRecompileLimitHit as error:
            raise TrainError(
                f"model.compile: micro-batches have too many shapes, the last is {list(shape)}: use model.compile=false"
            ) from error
        if self.num_graphs > before:
            self.seconds += time.perf_counter() - start
            self.shape = tuple(shape)


def eager(compilation: Compilation | None) -> AbstractContextManager[Any]:
    """Returns a context in which the plain functions run, whatever is compiled."""
    return nullcontext() if compilation is None else torch.compiler.set_stance("force_eager")
