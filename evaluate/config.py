"""The settings of probes, as `python -m evaluate probe SOURCE key=value ...` takes them; how settings are read."""

import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeVar, get_origin, get_type_hints

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from evaluate.errors import EvaluateError

MIN_WORDS = 20  # more than the common words of cwe
MIN_COLUMNS = 2  # one that leads to another row, and one to ask for
MAX_NEEDLES = 40  # RULER has 40 depths in prose

Config = TypeVar("Config")


class Items(Enum):
    """What lists to copy or to reverse are made of."""

    letters = "letters"
    numbers = "numbers"
    words = "words"


@dataclass
class SampleConfig:
    """Which tasks, at which lengths, how large, and how many samples: what probes and analyses of them share."""

    task: list[str] = field(default_factory=list)
    """Names of tasks; none stands for all that fit the length."""
    length: list[int] = field(default_factory=list)
    """Tokens of a prompt with what is left for its answer; none stands for the length of the model's training."""
    yarn: dict[int, float] = field(default_factory=dict)
    """YaRN's factor by length, as in yarn=8192:2,16384:4; none at the other lengths."""
    num_samples: int = 500
    """Samples of each task at each length."""
    seed: int = 42
    """Of the samples: the same for models that are to be compared."""
    max_new_tokens: int | None = None
    """Tokens to generate, instead of the task's own number. Prompts leave room for them, also with generate=false."""
    haystack: str | None = None
    """A text file to hide needles in; Python's language reference if there is none."""
    num_words: int | None = None
    """How many words of each word list are drawn from; all if not set."""
    value_digits: int = 7
    """Digits of the values in needle and key_value tasks, and of items=numbers."""
    num_needles: int = 4
    """Keys of multikey_1 and multiquery, values of multivalue."""


@dataclass
class ProbeConfig(SampleConfig):
    """The samples of all tasks, and how they are asked."""

    generate: bool = True
    """Whether answers are generated, which takes most of the time; log-likelihoods are measured in any case."""
    num_hops: int = 4
    """Assignments from variable to variable in vt."""
    name_letters: int = 5
    """Letters of a variable's name in vt."""
    num_common: int = 10
    """Common words that cwe asks for."""
    coded_letters: int = 6
    """Letters of a word in fwe."""
    items: Items = Items.letters
    """What copy and reverse list."""
    num_columns: int = 4
    """Columns of tables beside the names of their rows; 2 or more."""
    save_prompts: bool = False
    """Whether the prompt of each sample is kept with its result."""
    max_items: int = 100
    """Most items of copy and reverse, whose answers are as long as their lists."""

    def validate(self) -> None:
        """Raises EvaluateError for a value out of range."""
        numbers = {name: value for name, value in vars(self).items() if isinstance(value, int) and name != "seed"}
        small = [name for name, value in numbers.items() if not isinstance(value, bool) and value < 1]
        small += ["length"] if any(length < 1 for length in self.length) else []
        if small:
            raise EvaluateError(f"{small[0]}={getattr(self, small[0])} must be 1 or more")
        if self.num_words is not None and self.num_words < MIN_WORDS + self.num_common:
            raise EvaluateError(f"num_words={self.num_words} must be {MIN_WORDS + self.num_common} or more")
        if self.num_columns < MIN_COLUMNS:
            raise EvaluateError(f"num_columns={self.num_columns} must be {MIN_COLUMNS} or more")
        if self.num_needles > MAX_NEEDLES:
            raise EvaluateError(f"num_needles={self.num_needles} must be {MAX_NEEDLES} or less")
        check_yarn(self.yarn, self.length or self.yarn)
        for name in ("task", "length"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise EvaluateError(f"{name}={values} names one twice")


def check_yarn(yarn: Mapping[int, float], lengths: Collection[int]) -> None:
    """Raises EvaluateError for a factor below 1, or of a length that is not read."""
    if stray := [length for length in yarn if length not in lengths]:
        raise EvaluateError(f"yarn has a factor for length {stray[0]}, which is none of length={list(lengths)}")
    if any(not factor >= 1 for factor in yarn.values()):
        raise EvaluateError(f"yarn={yarn}: factors must be 1 or more")


def parse_config(assignments: Sequence[str]) -> ProbeConfig:
    """Returns the config of probes with `key=value` changes. Raises EvaluateError."""
    config = parse_settings(ProbeConfig, assignments)
    config.validate()
    return config


def parse_settings(kind: type[Config], assignments: Sequence[str]) -> Config:
    """Returns a config with `key=value` changes: a list is `a,b`, a mapping `a:b,c:d`. Raises EvaluateError."""
    known = get_type_hints(kind)
    lines = []
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise EvaluateError(f"{assignment} is no setting: write key=value")
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"keys are: {', '.join(known)}"
            raise EvaluateError(f"there is no key {key}; {hint}")
        if get_origin(known[key]) is list and not value.startswith("["):
            assignment = f"{key}=[{value}]"
        if get_origin(known[key]) is dict and not value.startswith("{"):
            if ":" not in value:
                raise EvaluateError(f"{assignment}: write {key}=LENGTH:FACTOR, as in {key}=8192:2")
            assignment = f"{key}={{{value.replace(':', ': ')}}}"
        try:
            yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise EvaluateError(f"{assignment} cannot be read: give {key} a plain value") from error
        lines.append(assignment)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(kind), OmegaConf.from_dotlist(lines))
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        full_key = getattr(error, "full_key", None) or "a setting"
        key = re.split(r"[.\[]", full_key)[0]
        if takes := _takes(key, known.get(key)):
            wrong = next(each for each in reversed(assignments) if each.startswith(f"{key}="))
            raise EvaluateError(f"{wrong}: {key} takes {takes}") from error
        raise EvaluateError(f"{full_key}: {str(error).splitlines()[0]}") from error
    assert isinstance(config, kind)
    return config


def _takes(key: str, kind: object) -> str | None:
    """Returns which values a key of numbers or of true and false takes, in words; None for other keys."""
    words = {
        bool: "true or false",
        int: f"a whole number, as in {key}=10",
        float: f"a number, as in {key}=0.5",
        list[int]: f"whole numbers, as in {key}=256,512",
        dict[int, float]: f"LENGTH:FACTOR, as in {key}=8192:2",
    }
    return next((said for each, said in words.items() if kind in (each, each | None)), None)
