"""Trains the runs of the bench with the real engine and meter, and keeps their readings."""

import copy
import gzip
import json
import math
import tempfile
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.detectors.cases import ALL_FAILURES, SIZES, Case, Scope, Size
from data.text.decode import read_lines
from data.tokenizer import EOS_TOKEN, TOKENIZER_NAME, DocumentEncoder
from data.tools.sample import build_sample
from model.config import ModelConfig, PositionsConfig
from model.weights import random_weights
from report.metrics import HEAD_SIGNALS
from train.config import RunConfig
from train.distributed import Ranks
from train.engine.build import build_engine
from train.engine.config import EngineConfig, Precision
from train.engine.engine import Engine
from train.micro_batches import shifted_labels, to_micro_batch
from train.optimizer_config import OptimizerConfig
from train.schedule import ScheduleConfig, learning_rate
from train.watch.meter import Meter
from train.watch.reading import Reading
from train.watch.row_updates import rows_now

SAMPLE_MEGABYTES = 4.0  # of real text
MAX_SKIPPED = 10  # updates in a row that were not finite, after which a run ends


class Text:
    """Rows of made-up text: a random grammar of pairs of tokens, with words that come back later in the row."""

    def __init__(self, size: Size, seed: int) -> None:
        self._size, self._rng = size, np.random.default_rng(seed)
        grammar = np.random.default_rng(7)
        self._next = grammar.integers(size.vocab_size, size=(size.vocab_size, 4))

    def rows(self) -> np.ndarray:
        """Returns the next batch [B, T]."""
        size, rng = self._size, self._rng
        if size.is_real:
            corpus = real_tokens(size.vocab_size)
            starts = rng.integers(len(corpus) - size.length, size=size.rows)
            return np.stack([corpus[start : start + size.length] for start in starts]).astype(np.int64)
        tokens = np.empty((size.rows, size.length), dtype=np.int64)
        tokens[:, 0] = rng.integers(size.vocab_size, size=size.rows)
        choices = rng.choice(4, p=(0.6, 0.2, 0.15, 0.05), size=tokens.shape)
        for t in range(1, size.length):
            tokens[:, t] = self._next[tokens[:, t - 1], choices[:, t]]
        for row in tokens:
            for _ in range(size.length // 24):
                length = int(rng.integers(4, 12))
                source = int(rng.integers(0, size.length // 2 - length))
                target = int(rng.integers(size.length // 2, size.length - length))
                row[target : target + length] = row[source : source + length]
        return tokens


@cache
def real_tokens(vocab_size: int) -> np.ndarray:
    """Returns the tokens of the sample corpus, one document after the other."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build_sample(folder, vocab_size=vocab_size, megabytes=SAMPLE_MEGABYTES, report=lambda line: None)
        encoder = DocumentEncoder(folder / TOKENIZER_NAME, EOS_TOKEN)
        files = sorted(path for path in folder.glob("*/*") if path.is_file())
        return encoder.encode([json.loads(line)["text"] for path in files for line in read_lines(path)])


def configured(case: Case) -> RunConfig:
    """Returns the config of a run."""
    size = SIZES[case.size]
    schedules = {
        "decay": ScheduleConfig(decay_steps=case.steps),
        "constant": ScheduleConfig(decay_steps=10**9),
        "warm": ScheduleConfig(warmup_steps=case.steps // 10, decay_steps=case.steps),
    }
    return RunConfig(
        name="bench",
        seed=case.seed,
        sequence_length=size.length,
        global_batch_size=size.rows,
        micro_batch_size=size.rows,
        max_steps=case.steps,
        model=ModelConfig(
            vocab_size=size.vocab_size,
            hidden_size=size.hidden,
            intermediate_size=2 * size.hidden,
            num_layers=size.layers,
            num_heads=size.heads,
            initializer_range=size.initializer_range,
            eos_token_id=0,
            pad_token_id=0,
        ),
        positions=PositionsConfig(start_layer=size.start_layer),
        optimizer=OptimizerConfig(lr=case.lr),
        schedule=schedules[case.schedule],
        engine=EngineConfig(zero_stage=0, precision=Precision.fp32),
    )


class _Injured:
    """The damage of a case, put into a model in training."""

    def __init__(self, case: Case, engine: Engine) -> None:
        self._failure = ALL_FAILURES[case.failure] if case.failure is not None else None
        self._head, self._breaks = case.head, case.breaks
        everywhere = self._failure is not None and self._failure.scope is Scope.model
        self._modules = [m for layer, m in engine.model.learned_positions() if everywhere or layer == case.layer]

    def after_update(self, step: int) -> None:
        if self._failure is None or step < self._breaks:
            return
        injury = self._failure.injury
        for module in self._modules:
            with torch.no_grad():
                if injury.begin is not None and step == self._breaks:
                    injury.begin(module, self._head)
                if injury.repeat is not None:
                    injury.repeat(module, self._head)

    def rate_factor(self, step: int) -> float:
        return self._failure.injury.rate_factor if self._failure is not None and step > self._breaks else 1.0


@dataclass
class Start:
    """A run up to the damage: what others of the same seed begin with."""

    step: int
    readings: list[Reading]
    weights: dict[str, Any]
    moments: dict[str, Any]
    text: Text

    @classmethod
    def of(cls, run: "Run") -> "Start":
        """Returns a copy of the state of a run."""
        return copy.deepcopy(
            cls(run.step, run.readings, run.engine.model.state_dict(), run.engine._adamw.state_dict(), run.text)
        )


class Run:
    """One run, from its first step or from where another of the same seed stood."""

    def __init__(self, case: Case, ranks: Ranks, start: Start | None = None) -> None:
        self._case, self._config = case, configured(case)
        torch.manual_seed(case.seed)
        weights = random_weights(self._config.model, self._config.positions, case.seed)
        self.engine = build_engine(self._config, ranks, weights)
        self.step = 0
        self.readings: list[Reading] = []
        self.text = Text(SIZES[case.size], case.seed)
        if start is not None:
            start = copy.deepcopy(start)
            self.step, self.readings, self.text = start.step, start.readings, start.text
            self.engine.model.load_state_dict(start.weights)
            self.engine._adamw.load_state_dict(start.moments)
        self._injured = _Injured(case, self.engine)
        self._num_skipped = 0
        self._rows: dict[int, Tensor] | None = None

    def go(self, until: int) -> None:
        """Trains up to a step, with a reading every `interval` steps and after an update that was not finite."""
        everything = np.ones(self._config.global_batch_size, dtype=bool)
        while self.step < until and self._num_skipped < MAX_SKIPPED:
            self.step += 1
            is_read = self.step == 1 or self.step % self._case.interval == 0 or self._num_skipped == 1
            meter = Meter(self.engine, filtered_rows=False, rows=self._rows) if is_read else None
            rows = self.text.rows()
            labels = shifted_labels(rows, everything)
            micro = to_micro_batch(rows, labels, None, self.engine.device)
            self.engine.accumulate(micro, float((labels >= 0).sum()))
            if meter is not None:
                meter.read_gradients()
            rate = learning_rate(self.step, self._config.optimizer.lr, self._config.schedule)
            update = self.engine.update(rate, self._injured.rate_factor(self.step))
            self._injured.after_update(self.step)
            self._num_skipped = 0 if update.applied else self._num_skipped + 1
            self._rows = rows_now(self.engine) if (self.step + 1) % self._case.interval == 0 else None
            if meter is not None:
                reading = meter.finish(self.step, update.grad_norm, world_size=1)
                assert reading is not None
                self.readings.append(reading)


def path_of(case: Case, folder: Path) -> Path:
    """Returns the file of a recorded run."""
    return folder / f"{case.name.replace(' ', '-').replace('/', '-')}.jsonl.gz"


class Recorder:
    """Trains runs and writes their readings."""

    def __init__(self, ranks: Ranks, folder: Path) -> None:
        self._ranks, self._folder = ranks, folder
        self._starts: dict[int, Start] = {}

    def record(self, case: Case) -> None:
        """Trains a run and writes its readings; of runs with the same damaged seed, the healthy part once."""
        if case.failure is not None and case.seed not in self._starts:
            healthy = Run(replace(case, failure=None), self._ranks)
            healthy.go(case.breaks - 1)
            self._starts[case.seed] = Start.of(healthy)
            healthy.engine.close()
        run = Run(case, self._ranks, self._starts[case.seed] if case.failure is not None else None)
        run.go(case.steps)
        run.engine.close()
        path = path_of(case, self._folder)
        unfinished = path.with_suffix(".part")
        with gzip.open(unfinished, "wt") as file:
            file.writelines(json.dumps(asdict(reading)) + "\n" for reading in run.readings)
        unfinished.replace(path)


def read(case: Case, folder: Path) -> list[Reading]:
    """Returns the readings of a recorded run."""
    with gzip.open(path_of(case, folder), "rt") as file:
        return [_reading(json.loads(line)) for line in file]


def _reading(plain: dict[str, Any]) -> Reading:
    """Returns a reading; figures of heads that came after it was recorded are not known (NaN)."""
    heads, signals, maps = (
        {int(layer): values for layer, values in plain[name].items()} for name in ("heads", "signals", "maps")
    )
    for values in heads.values():
        for name in HEAD_SIGNALS.keys() - values.keys():
            values[name] = [math.nan] * len(values["std"])
    return Reading(plain["step"], heads, signals, maps, plain["loss"], tuple(plain.get("deviations", ())))
