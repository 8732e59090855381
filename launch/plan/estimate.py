"""Memory, speed and traffic of a run on a number of GPUs.

Memory and traffic are counted (train/engine/memory.py). Speed is FLOPs over an assumed, or measured, share of the peak
(MFU, attention counted in full), plus the time of collectives that do not overlap with arithmetic.
"""

from dataclasses import dataclass

from model.accounting import flops_per_token, head_flops_per_token
from train.config import RunConfig, rows_per_rank
from train.devices import Device
from train.engine.memory import Memory, memory, traffic

ASSUMED_MFU = 0.45
"""Calculated for the 1B model with RePo on one H200; no GPU has run it."""
GPUS_PER_NODE = 8
NETWORK = 320e9
"""Bytes/s between nodes, of one node: eight cards of 400 Gbit/s, at 80 %."""
GIB = 2**30


@dataclass(frozen=True)
class Cluster:
    """GPUs of one kind."""

    device: Device
    gpus: int
    gpus_per_node: int = GPUS_PER_NODE
    network: float = NETWORK

    @property
    def nodes(self) -> int:
        """Machines that have so many GPUs."""
        return -(-self.gpus // self.gpus_per_node)

    @property
    def bandwidth(self) -> float:
        """Bytes/s of a ring over all GPUs: the slower of the links in a node and between nodes."""
        return self.device.link if self.nodes == 1 else min(self.device.link, self.network)


@dataclass(frozen=True)
class Estimate:
    """What a run needs on a cluster."""

    cluster: Cluster
    memory: Memory
    wire_bytes: float
    """That one GPU sends in one step."""
    compute_seconds: float
    """Of one step."""
    network_seconds: float
    """Of one step."""
    tokens_per_step: int
    max_steps: int

    @property
    def reserved(self) -> float:
        """Bytes for CUDA, NCCL, the libraries' work space and unused pieces between tensors."""
        return 1.5 * GIB + 0.03 * self.capacity

    @property
    def capacity(self) -> float:
        """Bytes of one GPU."""
        return self.cluster.device.memory_gib * GIB

    @property
    def needed(self) -> float:
        """Bytes of one GPU that the run needs."""
        return self.memory.peak + self.reserved

    @property
    def fits(self) -> bool:
        """Whether one GPU has the memory."""
        return self.needed <= self.capacity

    @property
    def step_seconds(self) -> float:
        """Seconds of one step."""
        return self.compute_seconds + self.network_seconds

    @property
    def tokens_per_second(self) -> float:
        """Over all GPUs."""
        return self.tokens_per_step / self.step_seconds

    @property
    def days(self) -> float:
        """Of the whole run."""
        return self.max_steps * self.step_seconds / 86400

    @property
    def gpu_hours(self) -> float:
        """Of the whole run."""
        return self.days * 24 * self.cluster.gpus


def estimate(config: RunConfig, cluster: Cluster, mfu: float = ASSUMED_MFU) -> Estimate:
    """Returns what `config` needs. Raises TrainError if its batch cannot be split over the GPUs."""
    rows_per_rank(config, cluster.gpus)
    flops = flops_per_token(config.model, config.positions, config.sequence_length, causal=False)
    if config.model.activation_checkpointing:  # the forward pass of all blocks once more
        flops += (flops - head_flops_per_token(config.model)) / 3
    tokens = config.global_batch_size * config.sequence_length
    wire = traffic(config, cluster.gpus, on_gpu=True).on_the_wire(cluster.gpus)
    return Estimate(
        cluster=cluster,
        memory=memory(config, cluster.gpus, on_gpu=True),
        wire_bytes=wire,
        compute_seconds=tokens / cluster.gpus * flops / (mfu * cluster.device.bf16_peak),
        network_seconds=wire / cluster.bandwidth,
        tokens_per_step=tokens,
        max_steps=config.max_steps,
    )
