"""The config of a run: every component's dataclass in one, and the checks that concern several of them.

Each component's settings, with their defaults, meanings and checks, are in a dataclass beside it. The defaults are the
published recipe (SakanaAI/repo, OLMo2-1B-stage2-seed42-SEXMH-L5). Hydra composes the YAML files of `configs/`, which
state what differs, into a `RunConfig`: a key that is not here, or a value of the wrong type, is an error.
`python -m launch keys` prints every key with its meaning. Nothing here imports torch, so that a launcher can read a
config in a fraction of a second.
"""

import math
import re
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from typing import Any

from omegaconf import MISSING

from data.config import DataConfig
from model.config import ModelConfig, PositionsConfig
from model.errors import ModelError
from model.huggingface.flavours import check_flavour, default_flavour
from model.positions import build_schemes
from train.callbacks.config import EvaluationConfig, LoggingConfig, ProfileConfig, WandbConfig
from train.checkpoint.config import CheckpointConfig
from train.engine.config import EngineConfig, compiles_blocks
from train.errors import TrainError
from train.guard import GuardConfig
from train.launch_config import LaunchConfig
from train.loss_config import LossConfig
from train.optimizer_config import OptimizerConfig
from train.ranges import check_at_least
from train.schedule import ScheduleConfig
from train.watch.config import AlertPolicy, PositionWatchConfig
from train.watchdog_config import WatchdogConfig


@dataclass
class RunConfig:
    """One run."""

    name: str = MISSING
    """Name of the run, and of its folder below run_root."""
    run_root: str = "runs"
    """Folder that holds the runs."""
    seed: int = 42
    """Seed of fresh parameters; each rank's generators start from it plus the rank."""
    init_from: str | None = None
    """Weights to start from: a Hugging Face folder, a run, a checkpoint or hf://OWNER/NAME@REVISION; null: random."""
    sequence_length: int = 4096
    """Tokens in a row."""
    global_batch_size: int = 512
    """Rows per update over all ranks; 512 rows of 4096 tokens are 2,097,152 tokens."""
    micro_batch_size: int | None = 4
    """Rows per forward pass on one rank; null: the rank's whole share."""
    mask_documents: bool = False
    """Whether a token attends only to its own document within the row; false: to the whole row, as published."""
    max_steps: int = 23852
    """Step at which the run ends; as published, 50.02B tokens, of which the last 11 steps have a rate of zero."""
    stop_step: int | None = None
    """Step after which the run is evaluated, saves and stops before its end, to be continued; null: none."""
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
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    position_watch: PositionWatchConfig = field(default_factory=PositionWatchConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    profile: ProfileConfig = field(default_factory=ProfileConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)

    def validate(self) -> None:
        """Raises TrainError, ModelError or DataError with the key, the value and the remedy."""
        check_at_least("", self, seed=0, sequence_length=2, global_batch_size=1, micro_batch_size=1, max_steps=1)
        check_at_least("", self, stop_step=1)
        if self.seed >= 2**63:
            raise TrainError(f"seed={self.seed} is too large: it must be below 2^63")
        if self.stop_step is not None and self.stop_step > self.max_steps:
            raise TrainError(f"stop_step={self.stop_step} is after the end of the run, max_steps={self.max_steps}")
        if not re.fullmatch(r"\w[\w.+-]*", self.name):
            raise TrainError(f"name={self.name!r} cannot name a folder: use letters, digits, '.', '+', '-' and '_'")
        if not self.run_root:
            raise TrainError("run_root is empty: name the folder of runs, or leave it out for runs")
        if self.run_root.startswith("~"):
            raise TrainError(f"run_root={self.run_root} begins with ~, which only a shell replaces: write it out")
        for component in (
            self.optimizer,
            self.schedule,
            self.loss,
            self.engine,
            self.guard,
            self.watchdog,
            self.checkpoint,
            self.evaluation,
            self.position_watch,
            self.wandb,
            self.logging,
            self.profile,
            self.launch,
            self.model,
        ):
            component.validate()
        compiles_blocks(self.model.compile, on_gpu=True, zero_stage=self.engine.zero_stage)
        build_schemes(self.model, self.positions)
        self.data.validate()
        self._check_logged("position_watch.interval", self.position_watch.interval)
        self._check_rollback()
        if self.evaluation.enabled:
            self._check_logged("evaluation.interval", self.evaluation.interval)
            self._check_logged("evaluation.probe_interval", self.evaluation.probe_interval)

    def export_problem(self) -> str | None:
        """Returns why this model's weights cannot be exported in their default flavour, or None."""
        try:
            check_flavour(default_flavour(self.model, self.positions), self.model, self.positions)
        except ModelError as error:
            return str(error)
        return None

    def as_plain(self) -> dict[str, Any]:
        """Returns the same as dicts, lists, strings and numbers."""
        return {each.name: _plain(getattr(self, each.name)) for each in fields(self)}

    def _check_rollback(self) -> None:
        """Raises TrainError if an alert, which takes two readings, would find all checkpoints before it deleted."""
        watch, checkpoint = self.position_watch, self.checkpoint
        needed = 1 + math.ceil(watch.interval / checkpoint.interval)
        if watch.policy is AlertPolicy.rollback and checkpoint.keep < needed:
            raise TrainError(
                f"checkpoint.keep={checkpoint.keep} is too few for position_watch.policy=rollback: with "
                f"checkpoint.interval={checkpoint.interval} and position_watch.interval={watch.interval}, the "
                f"checkpoint before a failure would be deleted before the alert; use checkpoint.keep={needed} or more"
            )

    def _check_logged(self, key: str, interval: int | None) -> None:
        if interval is not None and interval % self.logging.interval:
            raise TrainError(
                f"{key}={interval} must be a multiple of logging.interval={self.logging.interval}: "
                "values of a step that is not logged would be lost"
            )


def _plain(value: Any) -> Any:
    """Returns a value of a config as plain data; OmegaConf takes a hundred times as long, at every checkpoint."""
    if is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value.name if isinstance(value, Enum) else value


def rows_per_rank(config: RunConfig, world_size: int) -> tuple[int, int]:
    """Returns each rank's (micro-batch size, micro-batches per update). Raises TrainError where they don't divide."""
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
