"""The settings of callbacks: what is logged, to W&B too, and when a run is evaluated. Importable without torch."""

from dataclasses import dataclass, field
from enum import Enum

from evaluate.config import ProbeConfig
from train.errors import TrainError
from train.ranges import check_at_least


@dataclass
class LoggingConfig:
    """How often metrics, console lines and the report are written, and Python's garbage is collected."""

    interval: int = 1
    """Steps between lines of metrics.jsonl and of W&B."""
    console_interval: int = 10
    """Steps between console lines where there is no terminal."""
    report_seconds: float | None = 60.0
    """Seconds between refreshes of report.html; null: no report."""
    gc_interval: int = 10
    """Steps between collections of Python's youngest garbage; automatic collection is off."""

    def validate(self) -> None:
        """Raises TrainError with the key, the value and the remedy."""
        check_at_least("logging", self, interval=1, console_interval=1, report_seconds=0, gc_interval=1)


@dataclass
class ProfileConfig:
    """Steps of which a trace is written, to see where the time goes."""

    steps: list[int] = field(default_factory=list)
    """Steps to profile, on the main rank; none by default. Those after the fifth are typical."""

    def validate(self) -> None:
        """Raises TrainError with the key, the value and the remedy."""
        if wrong := [step for step in self.steps if step < 1]:
            raise TrainError(f"profile.steps has {wrong[0]}: steps count from 1")


@dataclass
class EvaluationConfig:
    """When the loss on the validation set is measured; without a validation set (data.validation) never."""

    interval: int | None = 1000
    """Steps between evaluations, a multiple of logging.interval; null: only at the end."""
    enabled: bool = True
    """Whether to evaluate where the data has a validation set."""
    micro_batch_size: int | None = None
    """Rows per forward pass on one rank; null: the training's."""
    probe_interval: int | None = None
    """Steps between probes, a multiple of logging.interval; null: none."""
    probes: ProbeConfig = field(default_factory=lambda: ProbeConfig(generate=False))
    """What probes ask (docs/evaluate.md): tasks, lengths, samples; generate=true scores answers too, at ZeRO 0 to 2."""

    def validate(self) -> None:
        """Raises TrainError with the key, the value and the remedy, and EvaluateError for the probes."""
        check_at_least("evaluation", self, interval=1, micro_batch_size=1, probe_interval=1)
        if self.probe_interval is not None:
            self.probes.validate()
        if self.probes.yarn:
            raise TrainError(
                "evaluation.probes.yarn: a run is probed as it is trained; take `python -m evaluate probe`"
            )


class WandbMode(Enum):
    """What W&B does; metrics.jsonl is written in any case."""

    offline = "offline"
    online = "online"
    disabled = "disabled"


@dataclass
class WandbConfig:
    """Weights & Biases."""

    mode: WandbMode = WandbMode.offline
    """offline writes into the run folder, from where `wandb sync` uploads; metrics.jsonl is written in any case."""
    project: str = "repo-cpt"
    """The project that runs are listed in."""
    entity: str | None = None
    """The account or team that owns the project; null: the default of your account."""
    group: str | None = None
    """The group that runs are shown under; null: none."""
    tags: list[str] = field(default_factory=list)
    """Tags of the run."""
    picture_interval: int = 500
    """Steps between pictures of the position statistics; those of the fixed texts are all uploaded."""

    def validate(self) -> None:
        """Raises TrainError with the key, the value and the remedy."""
        check_at_least("wandb", self, picture_interval=1)
