"""What the parts of `python -m benchmarks.gpu` share: settings, engines with weights made on the device, clocks."""

import gc
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu import Notes
from model.config import Kernel, ModelConfig, PositionsConfig
from model.weights import Weights, parameter_shapes
from train.config import RunConfig
from train.distributed import Ranks
from train.engine.build import build_engine
from train.engine.config import EngineConfig, Precision
from train.engine.engine import Engine, MicroBatch
from train.optimizer_config import OptimizerConfig


@dataclass(frozen=True)
class Setting:
    """What a row of the table of speeds varies."""

    compiled: bool
    rows: int
    zero_stage: int
    kernel: Kernel = Kernel.auto

    @property
    def text(self) -> str:
        """The setting in words."""
        kernel = ", no Triton" if self.kernel is Kernel.torch else ""
        return f"{'compiled' if self.compiled else 'eager'}, micro-batch {self.rows}, ZeRO {self.zero_stage}{kernel}"


# The most telling first: time may run out.
SETTINGS = {
    "1b": [
        Setting(True, 8, 1),
        Setting(True, 8, 1, Kernel.torch),
        Setting(False, 8, 1),
        Setting(True, 4, 2),
        Setting(True, 16, 1),
        Setting(False, 4, 2),
        Setting(True, 4, 1),
        Setting(True, 8, 2),
    ],
    "tiny": [Setting(True, 2, 1), Setting(False, 2, 2)],
}


class Bench:
    """What all parts share: the ranks, the size, the notes."""

    def __init__(self, ranks: Ranks, size: str, notes: Notes) -> None:
        self.ranks, self.size, self.notes = ranks, size, notes
        self.device = ranks.device
        self.is_cuda = ranks.device.type == "cuda"
        self.is_tiny = size == "tiny"

    def config(self, setting: Setting, scheme: str, micro_batches: int, **engine: Any) -> RunConfig:
        """Returns a config of one rank."""
        model = ModelConfig()
        if self.is_tiny:
            model = ModelConfig(
                vocab_size=256,
                hidden_size=32,
                intermediate_size=64,
                num_layers=3,
                num_heads=2,
                eos_token_id=0,
                pad_token_id=0,
                loss_chunk_rows=32,
            )
        model.compile, model.kernel = setting.compiled, setting.kernel
        precision = Precision.bf16 if setting.zero_stage else Precision.fp32
        return RunConfig(
            name="benchmark",
            sequence_length=32 if self.is_tiny else 4096,
            global_batch_size=setting.rows * micro_batches,
            micro_batch_size=setting.rows,
            model=model,
            positions=PositionsConfig(scheme),
            optimizer=OptimizerConfig(lr=3e-3 if self.is_tiny else 3e-4),
            engine=EngineConfig(zero_stage=setting.zero_stage, precision=precision, **engine),
        )

    def engine(self, config: RunConfig) -> Engine:
        """Returns an engine with weights that are made on the device."""
        return build_engine(config, self.ranks, self.weights(config))

    def weights(self, config: RunConfig) -> Weights:
        """Returns random values by name, the same at every call."""
        shapes = parameter_shapes(config.model, config.positions)

        def weights(name: str) -> Tensor:
            if name.endswith("norm.weight"):
                return torch.ones(shapes[name], device=self.device)
            seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "little")
            generator = torch.Generator(self.device).manual_seed(seed)
            return torch.randn(shapes[name], generator=generator, device=self.device) * config.model.initializer_range

        return weights

    def tokens(self, config: RunConfig, seed: int = 0) -> Tensor:
        """Returns a batch [B, T] in which a token mostly tells the next."""
        generator = torch.Generator().manual_seed(seed)
        shape = (config.global_batch_size, config.sequence_length)
        steps = torch.randint(1, 4, shape, generator=generator)
        return (steps.cumsum(1) % config.model.vocab_size).to(self.device)

    def wait(self) -> None:
        """Waits for the device, where a clock is read."""
        if self.is_cuda:
            torch.cuda.synchronize()

    def clock(self) -> float:
        """Returns seconds: of the wall on a GPU, of the process on a CPU, which others may share."""
        self.wait()
        return time.perf_counter() if self.is_cuda else time.process_time()

    def free(self) -> None:
        """Gives the memory of closed engines back."""
        gc.collect()
        if self.is_cuda:
            torch.cuda.empty_cache()


def step(engine: Engine, config: RunConfig, tokens: Tensor, rate: float | None = None) -> tuple[float, float]:
    """Makes one update and returns the loss per token before it, and the norm of the gradient."""
    total = torch.zeros((), device=engine.device)
    for first in range(0, len(tokens), engine.micro_batch_size):
        rows = tokens[first : first + engine.micro_batch_size]
        total += engine.accumulate(MicroBatch(rows, rows.roll(-1, 1)), tokens.numel()).total
    update = engine.update(config.optimizer.lr if rate is None else rate, 1.0)
    return float(total) / tokens.numel(), update.grad_norm


def relative(actual: Tensor, exact: Tensor) -> float:
    """Returns the root mean square of the error over that of the exact value."""
    exact = exact.double()
    return float((actual.double() - exact).square().mean().sqrt() / exact.square().mean().sqrt())


def timed(bench: Bench, work: Callable[[], Any], seconds: float) -> float:
    """Returns the mean seconds of `work` over at least `seconds`, after one call that warms up."""
    work()
    start, calls = bench.clock(), 0
    while (passed := bench.clock() - start) < seconds or calls == 0:
        for _ in range(1 if bench.is_tiny else 10):
            work()
            calls += 1
    return passed / calls
