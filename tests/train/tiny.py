"""A run small enough for many of them: three layers, two of them RePo, on token files with a little structure."""

from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, trainers

from data.config import DataConfig, DataKind
from model.config import ModelConfig, PositionsConfig
from train.callbacks.config import LoggingConfig, WandbConfig, WandbMode
from train.checkpoint.config import CheckpointConfig
from train.config import RunConfig
from train.engine.config import EngineConfig, Precision
from train.optimizer_config import OptimizerConfig
from train.schedule import ScheduleConfig
from train.watch.config import PositionWatchConfig
from train.watch.probe_texts import PROBE_TEXTS
from train.watchdog_config import WatchdogConfig

VOCAB_SIZE = 128
LENGTH = 48
ROWS_PER_FILE = 40


def write_tokens(folder: Path, *, num_files: int = 3, seed: int = 0) -> Path:
    """Token files and their list; an eighth of the rows repeat one token so often that the filter masks them."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    names = [f"part-{number}.npy" for number in range(num_files)]
    for name in names:
        steps = rng.integers(1, 4, (ROWS_PER_FILE, LENGTH))
        rows = (rng.integers(VOCAB_SIZE, size=(ROWS_PER_FILE, 1)) + steps.cumsum(axis=1)) % VOCAB_SIZE
        rows[rng.permutation(ROWS_PER_FILE)[: ROWS_PER_FILE // 8], :40] = 7
        rows.astype("<u4").tofile(folder / name)
    (folder / "files.txt").write_text("".join(f"{name}\n" for name in names))
    return folder


def write_tokenizer(path: Path) -> Path:
    """A tokenizer.json within the tiny vocabulary, for text that tests probe with."""
    tokenizer = Tokenizer(models.BPE(unk_token="?"))
    special = ["<|endoftext|>", "?"]
    tokenizer.train_from_iterator(
        PROBE_TEXTS.values(), trainers.BpeTrainer(vocab_size=VOCAB_SIZE, special_tokens=special)
    )
    tokenizer.save(str(path))
    return path


def tiny(root: Path, **changes: Any) -> RunConfig:
    """A config that trains in milliseconds, in `root/runs`, on `write_tokens(root / "tokens")`."""
    config = RunConfig(
        name="tiny",
        run_root=str(root / "runs"),
        seed=5,
        sequence_length=LENGTH,
        global_batch_size=8,
        micro_batch_size=4,
        max_steps=8,
        model=ModelConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=32,
            intermediate_size=48,
            num_layers=2,
            num_heads=2,
            initializer_range=0.1,
            eos_token_id=0,
            pad_token_id=0,
            loss_chunk_rows=64,
        ),
        positions=PositionsConfig(start_layer=1),
        data=DataConfig(
            DataKind.tokens, root=str(root / "tokens"), file_list=str(root / "tokens" / "files.txt"), eos_token_id=0
        ),
        optimizer=OptimizerConfig(lr=3e-3, eps=1e-6),
        schedule=ScheduleConfig(warmup_steps=2, decay_steps=20),
        engine=EngineConfig(zero_stage=2, precision=Precision.fp32, reduce_bucket_size=1_000_000),
        checkpoint=CheckpointConfig(interval=100, keep=3, export_hf=False),
        position_watch=PositionWatchConfig(interval=4),
        wandb=WandbConfig(WandbMode.disabled),
        logging=LoggingConfig(report_seconds=None),
        watchdog=WatchdogConfig(slow_step_factor=1e9),  # none is an event, however busy the machine is
    )
    for key, value in changes.items():
        *path, last = key.split("__")
        owner: Any = config
        for part in path:
            owner = getattr(owner, part)
        assert hasattr(owner, last), key
        setattr(owner, last, value)
    return config
