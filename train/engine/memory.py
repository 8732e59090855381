"""How many bytes a rank holds and sends at each ZeRO stage, without torch: for plans before a run, and its own reports.

Counted as DeepSpeed 0.19.8 does it with the settings of settings.py; tests/train/engine/test_memory.py holds the parts
against what real ranks hold, and the traffic against the collectives that they call. Per parameter, on W ranks, with
e = 2 bytes for bf16 and 4 for fp32:

    ZeRO               weights  gradients          optimizer (master and two moments)
    0 (fp32)           4        4                  8: the weights are the master
    1 (fp32)           4        4 + 4/W            12/W
    1 (bf16)           2        4                  12/W     the sum in fp32 is whole on every rank
    2                  e        4/W                12/W
    3                  e/W      4/W                12/W     and gathered weights, up to 1e9 parameters at once
"""

from dataclasses import dataclass

from model.accounting import parameter_sizes
from model.activations import activations
from train.config import RunConfig, rows_per_rank
from train.engine.config import Precision, compiles_blocks

FLOAT32, MOMENTS, MASTER = 4, 8, 4  # bytes per parameter
COPY_ELEMENTS = (
    500_000_000  # that DeepSpeed flattens at once where it reduces whole gradients (ZeRO 0, and 1 with bf16)
)
LIVE_ELEMENTS = 1_050_000_000  # of gathered weights at once under ZeRO 3: max_live_parameters and the prefetch bucket
PERSISTENT_ELEMENTS = 100_000  # a parameter of fewer stays gathered under ZeRO 3


@dataclass(frozen=True)
class Memory:
    """Bytes on one rank's device, at the largest."""

    weights: int
    """Parameters, and under ZeRO 3 those that are gathered at a time."""
    gradients: int
    optimizer: int
    """Masters and AdamW's moments."""
    activations: int
    """Kept from the forward pass to the backward pass of a micro-batch."""
    loss: int
    """While the loss is computed: logits of a chunk, gradients of the head."""
    backward: int
    """In the backward pass: a block's gradients, and what it computes again."""
    buffers: int
    """In the backward pass: what gradients are reduced in."""

    @property
    def states(self) -> int:
        """What is held at all times."""
        return self.weights + self.gradients + self.optimizer

    @property
    def peak(self) -> int:
        """The largest sum: the loss and the backward pass do not come together."""
        return self.states + self.activations + max(self.loss, self.backward + self.buffers)


@dataclass(frozen=True)
class Traffic:
    """Bytes of the whole tensors of collectives in one update."""

    all_reduced: int
    reduce_scattered: int
    all_gathered: int

    def on_the_wire(self, world_size: int) -> float:
        """Returns the bytes that one rank sends in rings: (W-1)/W of a tensor, and twice that for an all-reduce."""
        once = (world_size - 1) / world_size
        return once * (2 * self.all_reduced + self.reduce_scattered + self.all_gathered)


def element_bytes(config: RunConfig, *, on_gpu: bool) -> int:
    """Returns the bytes of a weight and of an activation."""
    automatic = Precision.bf16 if on_gpu else Precision.fp32
    precision = automatic if config.engine.precision is Precision.auto else config.engine.precision
    return 2 if precision is Precision.bf16 else 4


def memory(config: RunConfig, world_size: int, *, on_gpu: bool) -> Memory:
    """Returns what one of `world_size` ranks holds. Raises TrainError if the batch cannot be split over them."""
    rows, _ = rows_per_rank(config, world_size)
    size, stage = element_bytes(config, on_gpu=on_gpu), config.engine.zero_stage
    total = sum(parameter_sizes(config.model, config.positions))
    share = -(-total // world_size)
    part = activations(
        config.model,
        config.positions,
        rows=rows,
        length=config.sequence_length,
        element=size,
        on_gpu=on_gpu,
        mask_documents=config.mask_documents,
        compiled=stage < 3 and compiles_blocks(config.model.compile, on_gpu=on_gpu, zero_stage=stage),
    )
    weights = size * total if stage < 3 else size * (share + min(total, LIVE_ELEMENTS))
    return Memory(
        weights=weights,
        gradients=_gradients(stage, size, total, share),
        optimizer=MOMENTS * total if stage == 0 else (MASTER + MOMENTS) * share,
        activations=part.kept,
        loss=part.loss,
        backward=part.backward,
        buffers=_buffers(config, size, total, world_size),
    )


def _gradients(stage: int, size: int, total: int, share: int) -> int:
    if stage == 0:
        return FLOAT32 * total
    if stage == 1:  # bf16 keeps a whole sum in fp32 alone; fp32 whole gradients, and a part of their sum
        return FLOAT32 * (total if size == 2 else total + share)
    return FLOAT32 * share


def _buffers(config: RunConfig, size: int, total: int, world_size: int) -> int:
    stage, bucket = config.engine.zero_stage, config.engine.reduce_bucket_size
    if stage == 3:
        return FLOAT32 * bucket
    if stage == 0 or (stage == 1 and size == 2):
        return FLOAT32 * min(total, COPY_ELEMENTS) if world_size > 1 else 0
    num_buckets = 2 if config.engine.overlap_comm else 1
    return num_buckets * size * bucket + FLOAT32 * min(total, bucket)  # the bucket, and what is sent of it


def traffic(config: RunConfig, world_size: int, *, on_gpu: bool) -> Traffic:
    """Returns what an update sends. Raises TrainError if the batch cannot be split over the ranks.

    Gradients travel in fp32. ZeRO 2 and 3 reduce after every micro-batch. `reduce_scatter` of ZeRO 2 is an all-reduce
    in DeepSpeed 0.19.8.
    """
    _, num_micro_batches = rows_per_rank(config, world_size)
    size, stage = element_bytes(config, on_gpu=on_gpu), config.engine.zero_stage
    sizes = list(parameter_sizes(config.model, config.positions))
    total = sum(sizes)
    if world_size == 1:
        return Traffic(0, 0, 0)
    if stage == 3:
        small = sum(number for number in sizes if number < PERSISTENT_ELEMENTS)
        gathered = size * (small + 2 * num_micro_batches * (total - small))  # forward and backward
        return Traffic(0, FLOAT32 * total * num_micro_batches, gathered)
    times = num_micro_batches if stage == 2 else 1
    return Traffic(FLOAT32 * total * times, 0, 0 if stage == 0 else size * total)


def checkpoint_bytes(config: RunConfig, *, on_gpu: bool) -> int:
    """Returns the size of a checkpoint: masters, moments and, under ZeRO 1 and 2, the weights as well."""
    size = element_bytes(config, on_gpu=on_gpu) if config.engine.zero_stage in (1, 2) else 0
    return (size + MASTER + MOMENTS) * sum(parameter_sizes(config.model, config.positions))
