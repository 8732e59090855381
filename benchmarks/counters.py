"""What a training step does, counted and not timed: operators, FLOPs, bytes, waits for the device, collectives.

    python -m benchmarks.counters            prints the table, with what is committed beside it
    python -m benchmarks.counters --write    commits what is counted now to benchmarks/results/counters.md

Parts of OLMo-2 1B run on fake tensors, which have shapes and dtypes but no memory: a micro-batch of 4 x 4,096 tokens in
bf16, eager. The figures are exact and the same on every machine. Operators are those of a GPU: a fake tensor of a CPU
takes the GPU's products and its one kernel for RMSNorm, because autograd cannot run on fake GPU tensors without CUDA.
Bytes are what each operator reads and writes, views and allocations left out; a kernel may read its input twice.

Waits and collectives come from real DeepSpeed engines on two ranks, with the tiny model of its tests.
"""

import argparse
import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks.figures import Figure, Origin, markdown_table, report
from model import exact, norm_rotate, rotary
from model.accounting import flops_per_token
from model.config import Kernel, ModelConfig, PositionsConfig
from model.loss import LMHead
from model.transformer import Block, Olmo2, RMSNorm
from train.engine.config import Precision

ROWS, LENGTH = 4, 4096
TOKENS = ROWS * LENGTH
RESULTS = Path(__file__).parent / "results" / "counters.md"

aten = torch.ops.aten
WAITS = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.is_nonzero, aten.equal, aten._unique2}
ALLOCATES = {aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty}
FREE = {*ALLOCATES, aten.detach, aten._unsafe_view, aten.alias, aten.promote_types, torch.ops.prim.device}
WRITE_ONLY = {aten.zeros, aten.zeros_like, aten.new_zeros, aten.ones_like, aten.arange, aten.full, aten.zero_}
BY_INDEX = {aten.gather, aten.embedding, aten.scatter_, aten.scatter_add_}  # touch as much as their index says
GEMMS = {aten.mm, aten.addmm, aten.bmm}


@dataclass
class Counts:
    """Sums over the operators that ran."""

    operators: int = 0
    gemm_flops: int = 0
    bytes_moved: int = 0
    waits: list[str] = field(default_factory=list)
    """The operators for which the host has to wait for the device."""


class Operators(TorchDispatchMode):
    """Counts the operators that run inside `with`, below autograd."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counts()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operator and counts it."""
        kwargs = kwargs or {}
        packet = func._overloadpacket
        if packet in WAITS or (packet is aten.index and any(_is_mask(index) for index in args[1])):
            self.counts.waits.append(str(packet))
        out = func(*args, **kwargs)
        if packet in FREE or func.is_view:
            return out
        self.counts.operators += 1
        self.counts.bytes_moved += _bytes_moved(packet, args, kwargs, out)
        if packet in GEMMS:
            self.counts.gemm_flops += flop_registry[packet](*args, **kwargs, out_val=out)
        return out


def _is_mask(index: Tensor | None) -> bool:
    return index is not None and index.dtype in (torch.bool, torch.uint8)


def _bytes_moved(packet: Any, args: Any, kwargs: Any, out: Any) -> int:
    inputs = tree_leaves((args, {key: value for key, value in kwargs.items() if key != "out"}))
    read = [tensor for tensor in inputs if isinstance(tensor, Tensor)]
    written = [tensor for tensor in tree_leaves(out) if isinstance(tensor, Tensor)]
    if packet in BY_INDEX:
        index = next(tensor for tensor in read if tensor.dtype == torch.int64)
        width = written[0].shape[-1] if packet is aten.embedding else 1
        return index.numel() * (8 + 2 * width * written[0].itemsize)
    if packet is aten.copy_:
        read = read[1:]
    return sum(map(_nbytes, written)) + (0 if packet in WRITE_ONLY else sum(map(_nbytes, read)))


def _nbytes(tensor: Tensor) -> int:
    return min(tensor.numel() * tensor.itemsize, tensor.untyped_storage().nbytes())  # expanded ones are smaller


@torch.library.custom_op("counters::rms_norm", mutates_args=())
def rms_norm(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Returns what the GPU's kernel does: the normalised x, and a scale per token. Only its shapes are ever needed."""
    raise NotImplementedError


@rms_norm.register_fake
def _(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)


@torch.library.custom_op("counters::rms_norm_backward", mutates_args=())
def rms_norm_backward(gradient: Tensor, x: Tensor, scale: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the gradients of x and of the weight."""
    raise NotImplementedError


@rms_norm_backward.register_fake
def _(gradient: Tensor, x: Tensor, scale: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(weight)


def _backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
    x, scale, weight = ctx.saved_tensors
    return rms_norm_backward(gradient, x, scale, weight)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)  # or the scale would get zeros as its gradient
    ctx.save_for_backward(inputs[0], output[1], inputs[1])


rms_norm.register_autograd(_backward, setup_context=_keep)


@contextlib.contextmanager
def gpu_operators() -> Iterator[None]:
    """Makes tensors inside `with` fake, and gives them the operators of a GPU."""

    def fused(self: RMSNorm, x: Tensor) -> Tensor:
        y: Tensor = rms_norm(x, self.weight)[0]
        return y

    with (
        patch.object(exact, "has_tensor_cores", lambda operand: True),
        patch.object(norm_rotate, "_is_on_gpu", lambda x: True),
        patch.object(rotary, "_keeps_cos_sin", lambda q, positions: False),
        patch.object(RMSNorm, "forward", fused),
        FakeTensorMode(allow_non_fake_inputs=True),
    ):
        yield


@dataclass
class Part:
    """The counts of a part of the model."""

    forward: Counts
    backward: Counts
    saved: int
    """Bytes that autograd keeps from the forward pass, parameters left out."""


def count_part(module: nn.Module, run: Callable[[], Tensor]) -> Part:
    """Returns the counts of `run()`, which uses `module`, and of its backward pass."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return tensor

    with Operators() as forward, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = run()
    for parameter in module.parameters():
        kept.pop(parameter.untyped_storage()._cdata, None)
    gradient = torch.empty_like(out)
    with Operators() as backward:
        out.backward(gradient)
    return Part(forward.counts, backward.counts, sum(kept.values()))


@functools.cache
def count_parts(kernel: Kernel = Kernel.torch) -> dict[str, Part]:
    """Returns the counts of a block with RoPE, one with RePo, and the loss: of a micro-batch of the 1B model."""
    config = ModelConfig(num_layers=2, kernel=kernel)
    with gpu_operators():
        with torch.device("meta"):
            model = Olmo2(config, PositionsConfig(start_layer=1))
        for module in model.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                setattr(module, name, nn.Parameter(torch.empty(parameter.shape, dtype=torch.bfloat16)))

        def hidden() -> Tensor:
            return torch.empty(ROWS, LENGTH, config.hidden_size, dtype=torch.bfloat16, requires_grad=True)

        labels, head = torch.empty(ROWS, LENGTH, dtype=torch.int64), model.lm_head
        assert isinstance(head, LMHead)
        rope, repo = model.layers
        assert isinstance(rope, Block) and isinstance(repo, Block)
        return {
            "RoPE block": count_part(rope, lambda: rope(hidden(), None)),
            "RePo block": count_part(repo, lambda: repo(hidden(), None)),
            "loss": count_part(head, lambda: head(hidden(), labels).total),
        }


def in_micro_batch() -> dict[str, int]:
    """Returns how often each part runs in a micro-batch of the 1B model."""
    num_layers, num_rope = ModelConfig().num_layers, ModelConfig().num_layers // 3
    return {"RoPE block": num_rope, "RePo block": num_layers - num_rope, "loss": 1}


def gemm_flops() -> tuple[int, int]:
    """Returns the FLOPs of the matrix products of a micro-batch, as counted and in closed form.

    The final map's operands are float32, in three pieces each (model/exact.py): what its products take beyond one is
    added to the closed form. Forward, and for the gradient of its input, one operand is bf16.
    """
    parts, model, positions = count_parts(), ModelConfig(), PositionsConfig()
    counted = sum(times * _gemms(parts[name]) for name, times in in_micro_batch().items())
    final_map = 2 * TOKENS * (model.hidden_size // positions.hidden_divisor) * model.key_value_heads
    again = in_micro_batch()["RePo block"] * final_map * ((3 - 1) + (3 - 1) + (9 - 1))
    return counted, round(TOKENS * flops_per_token(model, positions, 0, causal=False)) + again


def _gemms(part: Part) -> int:
    return part.forward.gemm_flops + part.backward.gemm_flops


def model_counters() -> dict[str, float]:
    """Returns the counters of the model by name; less is better."""
    parts = count_parts()
    kernel = count_parts(Kernel.triton)
    rows: dict[str, float] = {}
    for name, part in (parts | {f"{name}, Triton": part for name, part in kernel.items() if name != "loss"}).items():
        rows[f"{name}: operators forward"] = float(part.forward.operators)
        rows[f"{name}: operators backward"] = float(part.backward.operators)
        rows[f"{name}: GB moved forward"] = round(part.forward.bytes_moved / 1e9, 3)
        rows[f"{name}: GB moved backward"] = round(part.backward.bytes_moved / 1e9, 3)
        if name != "loss":
            rows[f"{name}: KiB saved per token"] = round(part.saved / TOKENS / 1024, 3)
    for title, made_of in (("micro-batch", parts), ("micro-batch, Triton", kernel)):
        passes = [(n, made_of[name].forward, made_of[name].backward) for name, n in in_micro_batch().items()]
        rows[f"{title}: operators"] = float(sum(n * (one.operators + two.operators) for n, one, two in passes))
        moved = sum(n * (one.bytes_moved + two.bytes_moved) for n, one, two in passes)
        rows[f"{title}: GB moved"] = round(moved / 1e9, 3)
    rows["micro-batch: waits for the device"] = float(
        sum(len(part.forward.waits) + len(part.backward.waits) for part in parts.values())
    )
    rows["micro-batch: TFLOP in matrix products"] = round(gemm_flops()[0] / 1e12, 3)
    return rows


@contextlib.contextmanager
def counted_waits() -> Iterator[list[str]]:
    """Gives a list that grows by each wait for the device inside `with`: operators, and DeepSpeed's own."""
    from deepspeed.accelerator import get_accelerator

    accelerator, operators = get_accelerator(), Operators()
    own = accelerator.synchronize
    accelerator.synchronize = lambda *_: operators.counts.waits.append("synchronize")
    try:
        with operators:
            yield operators.counts.waits
    finally:
        accelerator.synchronize = own


def engine_counters() -> dict[str, float]:
    """Returns the counters of DeepSpeed's engines in bf16 by name, per update of two micro-batches; less is better."""
    from tests.distributed import run_ranks
    from tests.train.engine.test_memory import measure_all

    measured = run_ranks(measure_all, 2)[0]
    return {name: value for case, seen in measured.items() for name, value in of_engine(case, seen).items()}


def of_engine(case: tuple[int, Precision], seen: dict[str, Any]) -> dict[str, float]:
    """Returns the counters of one engine from what its test has measured."""
    name = f"ZeRO {case[0]}, {case[1].value}, two ranks"
    return {
        f"{name}: waits per micro-batch": float(max(map(len, seen["waits"]))),
        f"{name}: collectives per update": float(seen["num_collectives"]),
        f"{name}: MB in collectives per update": round(sum(seen["sent"].values()) / 1e6, 3),
    }


TITLES = ("counter", "first", "now")
HEADER = markdown_table(TITLES, [])


def committed() -> dict[str, tuple[float, float]]:
    """Returns (first, now) of each counter in the committed table."""
    if not RESULTS.exists():
        return {}
    lines = RESULTS.read_text(encoding="utf-8").partition(HEADER)[2].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {name: (float(first), float(now)) for name, first, now in cells}


def table(counters: dict[str, float]) -> str:
    """Returns the Markdown table: what was first committed, and what is counted now."""
    before = committed()
    rows = [(name, f"{before.get(name, (now, now))[0]:g}", f"{now:g}") for name, now in counters.items()]
    return markdown_table(TITLES, rows)


def main() -> None:
    """Prints the table, or commits it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.counters", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--write", action="store_true", help="replace the last column of the committed table")
    arguments = parser.parse_args()
    counted, closed = gemm_flops()
    counters, before = model_counters() | engine_counters(), committed()
    rows = table(counters)
    print(rows)
    grown = [name for name, value in counters.items() if name in before and value > before[name][1]]
    report(
        Figure("FLOPs of matrix products, of the closed form", counted / closed, at_most=1, origin=Origin.counted),
        Figure(f"counters above the committed ones {grown or ''}".rstrip(), len(grown), "", 0, origin=Origin.counted),
        *(
            Figure(f"1B, {name}", value, at_most=before[name][1] if name in before else None, origin=Origin.counted)
            for name, value in counters.items()
            if name.startswith("micro-batch")
        ),
    )
    if arguments.write:
        text = RESULTS.read_text(encoding="utf-8").partition(HEADER)[0] if RESULTS.exists() else "# Counters\n\n"
        RESULTS.write_text(text + rows, encoding="utf-8")


if __name__ == "__main__":
    main()
