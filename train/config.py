"""Every knob of a run, as dataclasses.

Hydra composes the YAML files under `configs/` into one `RunConfig`: a key that is not here, or a value of the wrong
type, is an error. The default values are the published recipe (SakanaAI/repo, OLMo2-1B-stage2-seed42-SEXMH-L5). No
torch here, so that a launcher can read a config in a fraction of a second.
"""

import math
import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING, OmegaConf

from data.config import DataConfig
from model.config import ModelConfig, PositionsConfig
from model.positions import build_schemes
from train.errors import TrainError


class Precision(Enum):
    """Dtype of parameters and activations in forward and backward; master weights are always fp32."""

    auto = "auto"  # bf16 on a GPU, fp32 on a CPU
    bf16 = "bf16"
    fp32 = "fp32"


class LossDenominator(Enum):
    """What the summed loss of a global batch is divided by."""

    valid_tokens = "valid_tokens"  # labels that count: the mean over what is learned from
    all_tokens = "all_tokens"  # rows x sequence length, as published: 4095/4096 of the mean, filtered rows included


@dataclass
class LossConfig:
    """Cross entropy plus z-loss."""

    z_loss_weight: float = 1e-4  # the effective published weight; the 1e-5 in the public YAML is never read there
    denominator: LossDenominator = LossDenominator.valid_tokens


@dataclass
class OptimizerConfig:
    """AdamW with the published parameter groups: everything decays except the input embedding."""

    lr: float = 7.4487e-5
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    eps: float = 1e-8
    weight_decay: float = 0.1
    decay_embeddings: bool = False
    decay_norms: bool = True
    max_grad_norm: float = 1.0  # global L2 norm over all parameters
    repo_lr_multiplier: float = 1.0  # for RePo's fresh parameters; 1 is the paper's recipe
    repo_warmup_steps: int = 0  # linear warm-up of RePo's parameters alone; 0 is the paper's recipe


@dataclass
class ScheduleConfig:
    """Linear warm-up, then linear decay. The step is counted before the update: the first update uses step 1."""

    warmup_steps: int = 0
    decay_steps: int = 23842  # ceil(50e9 / (512 * 4096)); the rate is final_fraction * lr from this step on
    final_fraction: float = 0.0


@dataclass
class EngineConfig:
    """DeepSpeed: how parameters, gradients and optimizer state are held and reduced."""

    zero_stage: int = 2
    precision: Precision = Precision.bf16
    overlap_comm: bool = False  # a history of races; turn on after an A/B on the machine at hand
    reduce_bucket_size: int = 500_000_000  # elements reduced at once (ZeRO 1-3)
    max_skipped_updates: int = 10  # so many non-finite updates in a row end the run


@dataclass
class GuardConfig:
    """Updates that are not applied although they are finite (train/guard.py). Thresholds count robust deviations."""

    loss: float | None = None  # above the median of the window; null: losses are not looked at, as published
    grad_norm: float | None = None  # the same for the global norm before clipping
    window: int = 128  # applied updates that the next one is compared with
    max_in_a_row: int = 5  # after so many refusals the new level is taken for the normal one


@dataclass
class WatchdogConfig:
    """What is said of ranks that are stuck or slow, and when a run that does not move is ended (train/watchdog.py)."""

    enabled: bool = True
    warn_seconds: float = 120.0  # without progress, until one line says where the rank is
    step_seconds: float = 600.0  # without progress within a step, until the run is ended
    other_seconds: float = 1500.0  # the same for all else: start, data, first step, saves, evaluation, export
    slow_step_factor: float = 4.0  # a step that takes so many times the median of recent ones is logged


@dataclass
class CheckpointConfig:
    """When to save, and how much to keep."""

    interval: int = 1000  # steps; the last step and a stop by signal save as well
    keep: int = 3  # newest checkpoints kept
    keep_every: int | None = None  # and, for good, those of steps that are multiples of this
    background: bool = False  # write while training goes on; takes a copy of this rank's share in host memory
    accept_changes: list[str] = field(default_factory=list)  # keys that may differ from the checkpoint, on purpose
    export_hf: bool = True  # at the end, write the fp32 weights as a Hugging Face folder, runs/NAME/hf


class AlertPolicy(Enum):
    """What an alert of the position watch does besides being said."""

    warn = "warn"  # nothing
    checkpoint = "checkpoint"  # saves a checkpoint
    stop = "stop"  # saves a checkpoint and ends the run


@dataclass
class PositionWatchConfig:
    """Watches RePo's learned positions (train/callbacks/position_watch.py, train/watch/)."""

    interval: int = 100  # steps between readings of the statistics
    policy: AlertPolicy = AlertPolicy.warn  # what an alert does besides being said
    filtered_rows: bool = False  # true: rows that the repetition filter takes out of the loss count as well
    probe_interval: int = 1000  # steps between pictures of the probe texts' positions
    probe_tokenizer: str | None = None  # tokenizer.json, path or address; null: the data's, or the one in init_from


class WandbMode(Enum):
    """What W&B does; metrics.jsonl is written in any case."""

    offline = "offline"  # into the run folder; `wandb sync` uploads it later
    online = "online"
    disabled = "disabled"


@dataclass
class WandbConfig:
    """Weights & Biases."""

    mode: WandbMode = WandbMode.offline
    project: str = "repo-cpt"
    entity: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    picture_interval: int = 500  # steps between pictures of the position statistics; those of probe texts all go


@dataclass
class LoggingConfig:
    """What the loop reports, and how often."""

    interval: int = 1  # steps between lines of metrics.jsonl (and W&B)
    console_interval: int = 10  # steps between plain lines where there is no terminal
    report_seconds: float | None = 60.0  # between refreshes of report.html; null: there is none
    gc_interval: int = 10  # steps between collections of Python's young garbage; the rest of the time it is off


@dataclass
class LaunchConfig:
    """How `python -m launch` starts processes on this machine."""

    processes: int | None = None  # null: one per visible GPU, or cpu_processes where there is none
    cpu_processes: int = 1


@dataclass
class RunConfig:
    """One run. `name` is its folder below `run_root`."""

    name: str = MISSING
    run_root: str = "runs"
    seed: int = 42  # of fresh parameters, and with the rank added of every rank's generators
    init_from: str | None = None  # a Hugging Face OLMo-2 folder, or a finished run's folder; null: random weights
    sequence_length: int = 4096
    global_batch_size: int = 512  # rows of sequence_length tokens per update, over all ranks
    micro_batch_size: int | None = 4  # rows per forward on one rank; null: the rank's whole share
    mask_documents: bool = False  # true: no token attends to another document of its row; false as published
    max_steps: int = 23852  # the published stop; the last 11 steps have a rate of zero
    model: ModelConfig = field(default_factory=ModelConfig)
    positions: PositionsConfig = field(default_factory=PositionsConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    watchdog: WatchdogConfig = field(default_factory=WatchdogConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    position_watch: PositionWatchConfig = field(default_factory=PositionWatchConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)

    def validate(self) -> None:
        """Raises TrainError, ModelError or DataError with the key, the value and the remedy."""
        for key, value, lowest in (
            ("seed", self.seed, 0),
            ("sequence_length", self.sequence_length, 2),
            ("global_batch_size", self.global_batch_size, 1),
            ("micro_batch_size", self.micro_batch_size, 1),
            ("max_steps", self.max_steps, 1),
            ("schedule.final_fraction", self.schedule.final_fraction, 0),
            ("schedule.warmup_steps", self.schedule.warmup_steps, 0),
            ("optimizer.repo_warmup_steps", self.optimizer.repo_warmup_steps, 0),
            ("optimizer.repo_lr_multiplier", self.optimizer.repo_lr_multiplier, 0),
            ("optimizer.lr", self.optimizer.lr, 0),
            ("optimizer.eps", self.optimizer.eps, 0),
            ("optimizer.weight_decay", self.optimizer.weight_decay, 0),
            ("optimizer.max_grad_norm", self.optimizer.max_grad_norm, 0),
            ("loss.z_loss_weight", self.loss.z_loss_weight, 0),
            ("engine.reduce_bucket_size", self.engine.reduce_bucket_size, 1),
            ("engine.max_skipped_updates", self.engine.max_skipped_updates, 1),
            ("guard.loss", self.guard.loss, 1),
            ("guard.grad_norm", self.guard.grad_norm, 1),
            ("guard.window", self.guard.window, 8),
            ("guard.max_in_a_row", self.guard.max_in_a_row, 1),
            ("watchdog.warn_seconds", self.watchdog.warn_seconds, 0.1),
            ("watchdog.step_seconds", self.watchdog.step_seconds, 0.1),
            ("watchdog.other_seconds", self.watchdog.other_seconds, 0.1),
            ("watchdog.slow_step_factor", self.watchdog.slow_step_factor, 1),
            ("checkpoint.interval", self.checkpoint.interval, 1),
            ("checkpoint.keep", self.checkpoint.keep, 1),
            ("checkpoint.keep_every", self.checkpoint.keep_every, 1),
            ("position_watch.interval", self.position_watch.interval, 1),
            ("position_watch.probe_interval", self.position_watch.probe_interval, 1),
            ("logging.interval", self.logging.interval, 1),
            ("logging.console_interval", self.logging.console_interval, 1),
            ("logging.gc_interval", self.logging.gc_interval, 1),
            ("logging.report_seconds", self.logging.report_seconds, 0),
            ("wandb.picture_interval", self.wandb.picture_interval, 1),
            ("launch.processes", self.launch.processes, 1),
            ("launch.cpu_processes", self.launch.cpu_processes, 1),
        ):
            if value is not None and not lowest <= value < math.inf:  # a NaN fails too
                raise TrainError(f"{key}={value} is out of range: it must be a number of at least {lowest}")
        if not re.fullmatch(r"\w[\w.+-]*", self.name):
            raise TrainError(f"name={self.name!r} cannot name a folder: use letters, digits, '.', '+', '-' and '_'")
        if self.seed >= 2**63:
            raise TrainError(f"seed={self.seed} is too large: it must be below 2^63")
        if self.schedule.decay_steps <= self.schedule.warmup_steps:
            raise TrainError(
                f"schedule.decay_steps={self.schedule.decay_steps} must be larger than "
                f"schedule.warmup_steps={self.schedule.warmup_steps}"
            )
        if self.position_watch.interval % self.logging.interval:
            raise TrainError(
                f"position_watch.interval={self.position_watch.interval} must be a multiple of "
                f"logging.interval={self.logging.interval}: statistics of a step that is not logged would be lost"
            )
        if len(self.optimizer.betas) != 2 or not all(0 <= beta < 1 for beta in self.optimizer.betas):
            raise TrainError(f"optimizer.betas={list(self.optimizer.betas)} must be two numbers in [0, 1)")
        if self.engine.zero_stage not in (0, 1, 2, 3):
            raise TrainError(f"engine.zero_stage={self.engine.zero_stage} does not exist: choose 0, 1, 2 or 3")
        self.model.validate()
        build_schemes(self.model, self.positions)
        self.data.validate()

    def as_plain(self) -> dict[str, Any]:
        """The same as dicts, lists, strings and numbers."""
        plain = OmegaConf.to_container(OmegaConf.structured(self), resolve=True, enum_to_str=True)
        assert isinstance(plain, dict)
        return {str(key): value for key, value in plain.items()}


def rows_per_rank(config: RunConfig, world_size: int) -> tuple[int, int]:
    """(micro-batch size, micro-batches per update) of each rank. Raises TrainError where they don't divide."""
    batch = config.global_batch_size
    if batch % world_size:
        fitting = [n for n in range(1, batch + 1) if batch % n == 0 and n <= 4 * world_size]
        raise TrainError(
            f"global_batch_size={batch} cannot be split over {world_size} ranks: "
            f"use launch.processes={max(n for n in fitting if n <= world_size)}, or a global_batch_size that is a "
            f"multiple of {world_size}"
        )
    share = batch // world_size
    micro = config.micro_batch_size or share
    if share % micro:
        divisor = max(n for n in range(1, min(share, micro) + 1) if share % n == 0)
        raise TrainError(
            f"micro_batch_size={micro} does not divide a rank's {share} rows "
            f"(global_batch_size={batch} over {world_size} ranks): use micro_batch_size={divisor}"
        )
    return micro, share // micro
