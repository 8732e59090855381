"""The settings of a replication, as configs/replicate/SIZE.yaml and `key=value` give them."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path

import yaml
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

import configs
from evaluate.errors import EvaluateError
from evaluate.tasks import check_names
from model.positions import PATTERNS, SCHEMES

FOLDER = Path(configs.__file__).parent / "replicate"
BASELINE = "rope"


@dataclass
class CorpusConfig:
    """What the models are trained on: tasks with their answers."""

    tasks: list[str] = MISSING
    """Tasks of docs/evaluate.md."""
    row_length: int = MISSING
    """Tokens of a row, which no sample exceeds."""
    is_bpe: bool = False
    """Whether the tokenizer is a byte-level BPE; otherwise each word is a token."""
    vocab_size: int = 512
    """Tokens of the tokenizer, at most; rows of the embedding."""
    num_words: int = 60
    """Words of each word list that keys are drawn from."""
    value_digits: int = 2
    """Digits of values."""
    num_needles: int = 4
    """Keys of niah_multikey_1 and niah_multiquery, values of niah_multivalue."""
    max_items: int = 100
    """Most items of a list."""
    answers_only: bool = True
    """Whether answers alone count in the loss; short answers in long texts teach too little so."""


@dataclass
class StageConfig:
    """One of the two stages of training."""

    steps: int = MISSING
    """Updates."""
    warmup_steps: int = 0
    """Steps of a linear warm-up."""
    decay_steps: int | None = None
    """Step at which the learning rate would be zero; null: one step after the last."""


@dataclass
class ProbesConfig:
    """What the trained models are asked."""

    lengths: list[int] = MISSING
    """Tokens of prompt and answer."""
    num_samples: int = 200
    """Of each task at each length."""
    seed: int = 7
    """Of the samples, which are the same for all models."""
    yarn: dict[int, float] = field(default_factory=dict)
    """Length -> YaRN factor at that length; others are run without."""
    batch_tokens: int = 16384
    """Tokens of a forward pass."""


@dataclass
class PrimaryConfig:
    """The one comparison that is named before the run; all others are corrected for their number."""

    scheme: str = "repo"
    """Compared with rope."""
    task: str = MISSING
    """One of corpus.tasks."""
    lengths: list[int] = MISSING
    """The mean over these lengths is what is compared."""


@dataclass
class TuningConfig:
    """The search for the learning rate of each scheme, the same effort for each."""

    rates: list[float] = MISSING
    """Learning rates of stage 2 that are tried."""
    seeds: list[int] = field(default_factory=list)
    """Seeds that are used for nothing else; none: the first rate is taken for every scheme."""


@dataclass
class ReplicateConfig:
    """A replication of one size."""

    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    stage_1: StageConfig = field(default_factory=StageConfig)
    stage_2: StageConfig = field(default_factory=StageConfig)
    tuning: TuningConfig = field(default_factory=TuningConfig)
    probes: ProbesConfig = field(default_factory=ProbesConfig)
    primary: PrimaryConfig = field(default_factory=PrimaryConfig)
    schemes: list[str] = field(default_factory=lambda: ["rope", "nope", "r2n1", "n2r1", "repo", "residual"])
    """Values of positions=; rope is what the others are compared with."""
    seeds: list[int] = MISSING
    """A backbone and a run of each scheme for each."""
    backbone_rate: float = MISSING
    """Learning rate of stage 1."""
    batch_rows: int = 32
    """Rows of an update."""
    run: list[str] = field(default_factory=list)
    """Further key=value arguments of every run."""
    parallel: int = 1
    """Runs at once."""
    draws: int = 10_000
    """Draws of the bootstrap."""

    def validate(self) -> None:
        """Raises EvaluateError, naming the key and the remedy."""
        primary = self.primary
        check_names(self.corpus.tasks, "corpus.tasks")
        known = (*SCHEMES, *PATTERNS)
        for name in self.schemes:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
            _require(name in known, f"schemes={self.schemes}: there is no scheme {name}; {hint}")
        _require(
            BASELINE in self.schemes, f"schemes={self.schemes} lack {BASELINE}, which the others are compared with"
        )
        _require(primary.scheme in self.schemes, f"primary.scheme={primary.scheme} is none of schemes={self.schemes}")
        _require(primary.scheme != BASELINE, f"primary.scheme={BASELINE} would be compared with itself")
        _require(primary.task in self.corpus.tasks, f"primary.task={primary.task} is none of {self.corpus.tasks}")
        missing = [length for length in primary.lengths if length not in self.probes.lengths]
        _require(bool(primary.lengths) and not missing, f"primary.lengths={primary.lengths}: not in probes.lengths")
        both = set(self.seeds) & set(self.tuning.seeds)
        _require(not both, f"seeds {sorted(both)} are in tuning.seeds too: rates would be chosen on what is reported")
        _require(len(self.seeds) >= 1, "seeds is empty: give one or more")
        for name, number in (
            ("parallel", self.parallel),
            ("draws", self.draws),
            ("batch_rows", self.batch_rows),
            ("probes.num_samples", self.probes.num_samples),
        ):
            _require(number >= 1, f"{name}={number} must be 1 or more")
        for name, listed in (("schemes", self.schemes), ("seeds", self.seeds), ("tuning.rates", self.tuning.rates)):
            _require(len(set(listed)) == len(listed) > 0, f"{name}={listed} is empty or names one twice")


def read_config(arguments: Sequence[str]) -> ReplicateConfig:
    """Returns the config of `size=NAME` with `key=value` changes. Raises EvaluateError."""
    size = size_of(arguments)
    changes = [each for each in arguments if not each.startswith("size=")]
    if wrong := next((each for each in changes if "=" not in each), None):
        raise EvaluateError(f"{wrong} is no setting: write key=value")
    try:
        merged = OmegaConf.merge(
            OmegaConf.structured(ReplicateConfig),
            OmegaConf.load(FOLDER / f"{size}.yaml"),
            OmegaConf.from_dotlist(changes),
        )
        config = OmegaConf.to_object(merged)
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        key = getattr(error, "full_key", None)
        if isinstance(error, ConfigKeyError) and key:
            raise EvaluateError(f"there is no key {key}; {_meant(key, size)}") from error
        raise EvaluateError(f"{key or 'a setting'}: {str(error).splitlines()[0]}") from error
    assert isinstance(config, ReplicateConfig)
    config.validate()
    return config


def _meant(key: str, size: str) -> str:
    """Returns which key is meant, or where keys are, in words."""
    keys = [each.name for each in fields(ReplicateConfig)]
    for each in fields(ReplicateConfig):
        if is_dataclass(each.type):
            keys += [f"{each.name}.{own.name}" for own in fields(each.type)]
    close = difflib.get_close_matches(key, keys, n=1)
    return f"did you mean {close[0]}?" if close else f"configs/replicate/{size}.yaml has those that there are"


def size_of(arguments: Sequence[str]) -> str:
    """Returns NAME of `size=NAME`. Raises EvaluateError."""
    sizes = [each.partition("=")[2] for each in arguments if each.startswith("size=")]
    known = sorted(path.stem for path in FOLDER.glob("*.yaml"))
    if len(sizes) != 1:
        raise EvaluateError(f"give one size=NAME: {', '.join(known)}")
    if sizes[0] not in known:
        close = difflib.get_close_matches(sizes[0], known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
        raise EvaluateError(f"there is no size={sizes[0]}; {hint}")
    return sizes[0]


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise EvaluateError(problem)
