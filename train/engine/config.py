"""The settings of the engine (train/engine/), importable without torch."""

from dataclasses import dataclass
from enum import Enum

from train.errors import TrainError
from train.ranges import check_at_least


class Precision(Enum):
    """Dtype of parameters and activations in forward and backward; master weights are always fp32.

    `auto` is bf16 on a GPU and fp32 on a CPU.
    """

    auto = "auto"
    bf16 = "bf16"
    fp32 = "fp32"


@dataclass
class EngineConfig:
    """How DeepSpeed holds and reduces parameters, gradients and optimizer state."""

    zero_stage: int = 2
    """ZeRO stage, 0 to 3: what is sharded over the ranks (1: optimizer state, 2: gradients too, 3: parameters too)."""
    precision: Precision = Precision.bf16
    """Dtype of forward and backward, with fp32 master weights; auto: bf16 on a GPU, fp32 on a CPU."""
    overlap_comm: bool = False
    """Reduce gradients while backward goes on; it has had races, so compare losses on your machine first."""
    reduce_bucket_size: int = 500_000_000
    """Gradient elements that are reduced at once (ZeRO 1 to 3)."""
    deterministic: bool = False
    """Same bits on a GPU from the same start, on the same GPUs and versions; slower. On CPUs that holds anyway."""
    max_skipped_updates: int = 10
    """Non-finite updates in a row that end the run."""

    def validate(self) -> None:
        """Raises TrainError with the key, the value and the remedy."""
        check_at_least("engine", self, reduce_bucket_size=1, max_skipped_updates=1)
        if self.zero_stage not in (0, 1, 2, 3):
            raise TrainError(f"engine.zero_stage={self.zero_stage} does not exist: choose 0, 1, 2 or 3")


def compiles_blocks(compile_key: bool | str, *, on_gpu: bool, zero_stage: int) -> bool:
    """Returns whether `model.compile` means that blocks are compiled; `auto`: on a GPU, but not under ZeRO 3.

    Raises TrainError for true with ZeRO 3, where DeepSpeed gathers weights in hooks that break every graph.
    """
    if compile_key is True and zero_stage == 3:
        raise TrainError(
            "model.compile=true does not work with engine.zero_stage=3, whose hooks cut graphs into pieces: "
            "use model.compile=auto, or engine.zero_stage=2"
        )
    return on_gpu and zero_stage < 3 if compile_key == "auto" else bool(compile_key)
