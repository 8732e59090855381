"""The settings of checkpoints and of the export at the end, importable without torch."""

from dataclasses import dataclass, field

from train.ranges import check_at_least


@dataclass
class CheckpointConfig:
    """When a checkpoint is saved, how many are kept, and what may change when a run continues."""

    interval: int = 1000
    """Steps between checkpoints; the last step and a stop by signal save as well."""
    keep: int = 3
    """Newest checkpoints kept."""
    keep_every: int | None = None
    """Checkpoints of steps that are multiples of this are kept for good; null: none."""
    background: bool = False
    """Write while training goes on; takes a copy of the rank's share in host memory."""
    accept_changes: list[str] = field(default_factory=list)
    """Keys that may differ from those of the checkpoint although that makes it another run."""
    export_hf: bool = True
    """At the end, write the fp32 weights with tokenizer and model card as a Hugging Face folder, runs/NAME/hf."""

    export_every: int | None = None
    """Steps between further exports, in runs/NAME/exports, all kept; null: none."""

    def validate(self) -> None:
        """Raises TrainError with the key, the value and the remedy."""
        check_at_least("checkpoint", self, interval=1, keep=1, keep_every=1, export_every=1)
