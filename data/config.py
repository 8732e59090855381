"""The configuration of the data, as plain dataclasses that a Hydra config can be checked against."""

import math
from dataclasses import dataclass, field
from enum import Enum

from data.errors import DataError
from data.fetch.credentials import query_problem


class DataKind(Enum):
    """What the files hold."""

    text = "text"
    """Documents as JSON lines or tables; tokenised, packed and mixed on the fly."""
    tokens = "tokens"
    """Token files (.npy), read in the published order."""


class EncoderKind(Enum):
    """What turns text into ids; the ids are those of `tokenizers` in every case."""

    auto = "auto"
    """fastokens where it gives the same ids on a hostile corpus and on the first documents of every source."""
    tokenizers = "tokenizers"
    """The library that defines the ids."""
    fastokens = "fastokens"
    """As `auto`, but an error where `auto` would take `tokenizers`."""


class TokenDtype(Enum):
    """How a token file without a header stores ids: little-endian."""

    uint32 = "uint32"
    """Four bytes per token, as published."""
    uint16 = "uint16"
    """Two bytes per token, for vocabularies of up to 65,536."""


class Fetch(Enum):
    """What of a token file is fetched when a row of it is needed."""

    rows = "rows"
    """The row and its neighbours, by byte range, into a copy with holes."""
    whole = "whole"
    """The file."""


@dataclass
class SourceConfig:
    """One source of the mix."""

    files: list[str] = field(default_factory=list)
    """Glob patterns below `data.root`, or folders below it: all text in them."""
    weight: float = 0.0
    """Share of the tokens; normalised over all sources; 0 leaves the source out. Not used by validation sources."""
    max_epochs: float | None = None
    """Passes over the source that a run may need; more are an error at its start, and a line later. null: any."""
    text_key: str = "text"
    """Field or column that holds the text; a dot goes into nested ones, as in `meta.body` (text)."""
    messages_key: str | None = None
    """Field or column that holds a list of messages, which the chat template turns into text; null: none (text)."""
    chat_template: str | None = None
    """Jinja file, given like `data.tokenizer`; null: that beside the tokenizer (text)."""
    separator: str | None = None
    """What stands between the documents of a .txt file, as in "\\n\\n"; null: a file is one document (text)."""
    file_list: str | None = None
    """Text file that lists the .npy paths of the source below `root`, one a line, instead of `files` (tokens)."""
    token_dtype: TokenDtype = TokenDtype.uint32
    """How .npy files without a header store ids (tokens)."""

    def validate(self, key: str, kind: DataKind, *, is_validation: bool = False) -> None:
        """Raises DataError for values out of range and for fields of the other kind of data; `key` names the source."""
        is_valid = math.isfinite(self.weight) and self.weight >= 0.0
        _require(is_validation or is_valid, f"{key}.weight", f"must be 0 or more, not {self.weight}")
        is_set = self.max_epochs is None or self.max_epochs > 0.0
        _require(is_set, f"{key}.max_epochs", f"must be above 0, or null for any number, not {self.max_epochs}")
        if kind is DataKind.text:
            self._validate_text(key)
            return
        _require(bool(self.files) != bool(self.file_list), key, "needs either files or file_list, and not both")
        for name, default in (("text_key", "text"), ("messages_key", None), ("chat_template", None)):
            _require(getattr(self, name) == default, f"{key}.{name}", "is for data.kind=text")

    def _validate_text(self, key: str) -> None:
        _require(self.file_list is None, f"{key}.file_list", "is for data.kind=tokens; use files")
        _require(bool(self.files), f"{key}.files", "is empty; give at least one glob pattern")
        _require(bool(self.text_key), f"{key}.text_key", "is empty; name the field that holds the text")
        both = self.messages_key is not None and self.text_key != "text"
        _require(not both, f"{key}.messages_key", "cannot be used with text_key; set one of the two")
        needless = self.chat_template is not None and self.messages_key is None
        _require(not needless, f"{key}.chat_template", "needs messages_key, the field that holds the messages")
        _require(self.separator != "", f"{key}.separator", "is empty; null makes each .txt file one document")


@dataclass
class RepetitionFilterConfig:
    """Rows that repeat a short pattern many times keep their place and are masked out of the loss (data/filters.py)."""

    enabled: bool = True
    """Whether such rows are masked out of the loss."""
    min_period: int = 1
    """Shortest pattern looked for, in tokens."""
    max_period: int = 13
    """Longest pattern looked for, in tokens."""
    max_count: int = 32
    """A row with this many repetitions, or more, is masked."""


@dataclass
class ValidationConfig:
    """Rows to evaluate on, from one of three places (data/validation.py); none is set: there are no such rows."""

    share: float = 0.0
    """Share of the documents that is held out of training, by a hash of their text (text); changes the data order."""
    sources: dict[str, SourceConfig] = field(default_factory=dict)
    """Files of their own by name of the source, below `root`; none of them may be a training file (text)."""
    file_list: str | None = None
    """Text file that lists other .npy paths below `root`, one a line, none of them in `data.file_list` (tokens)."""
    rows: int = 256
    """Size of the validation set in rows of the sequence length, in equal numbers from every source."""

    def validate(self, kind: DataKind) -> None:
        """Raises DataError for values out of range, for two places at once, and for one of the other kind of data."""
        key = "validation"
        _require(0.0 <= self.share < 1.0, f"{key}.share", f"must be 0 or more and below 1, not {self.share}")
        _require(self.rows >= 1, f"{key}.rows", f"must be 1 or more, not {self.rows}")
        both = self.share > 0.0 and bool(self.sources)
        _require(not both, f"{key}.share", f"cannot be used with data.{key}.sources; set share to 0 or sources to {{}}")
        for name, source in self.sources.items():
            source.validate(f"{key}.sources.{name}", DataKind.text, is_validation=True)
        if kind is DataKind.text:
            _require(
                self.file_list is None, f"{key}.file_list", "is for data.kind=tokens; use share or sources for text"
            )
        else:
            text_only = f"is for data.kind=text; list other token files in data.{key}.file_list"
            _require(self.share == 0.0, f"{key}.share", text_only)
            _require(not self.sources, f"{key}.sources", text_only)


@dataclass
class DataConfig:
    """What to read and in which order; together with the step it determines every batch."""

    kind: DataKind = DataKind.text
    """Text to tokenise on the fly, or token files."""
    root: str = ""
    """What all patterns and paths are relative to: a folder, or an address (https, hf, s3, gs); see docs/data.md."""
    sources: dict[str, SourceConfig] = field(default_factory=dict)
    """The sources of the mix by name; for token files, used where `file_list` is null."""
    file_list: str | None = None
    """Text file that lists the .npy paths below `root`, one a line, in the published order (tokens)."""
    token_dtype: TokenDtype = TokenDtype.uint32
    """How the .npy files of `file_list` without a header store ids (tokens)."""
    tokenizer: str | None = None
    """Path of a tokenizer.json, relative to `root` unless absolute, or an address of its own."""
    eos_token: str = "<|endoftext|>"
    """The special token that ends every document."""
    encoder: EncoderKind = EncoderKind.auto
    """What encodes text, without effect on any id: `auto` is fastokens where it agrees with `tokenizers`."""
    eos_token_id: int | None = None
    """Its id (tokens); null: that of the tokenizer."""
    seed: int = 42
    """Determines the order of files and documents."""
    num_streams: int = 64
    """Logical streams that make up a batch (text): a multiple of the world size that divides the global batch size."""
    num_workers: int = 0
    """Processes per rank that prepare rows ahead of the trainer, without effect on any batch; 0: none."""
    prefetch: int = 2
    """Steps that each worker prepares ahead."""
    cache_dir: str | None = None
    """Folder for fetched files and ingested documents; null: `.frames` below a local `root`, or `corpora/cache`."""
    max_cache_gib: float | None = None
    """Bound on the size of that folder in GiB; null: no bound. Files that the order has passed are deleted (text), or
    rows that have been read are (tokens, with `fetch=rows`).

    Processes that write at the same time may each exceed it by what they have begun: a file to fetch, an eighth of one
    to ingest. A single process exceeds it by one frame at most.
    """
    fetch: Fetch = Fetch.rows
    """What of a remote token file is fetched: the rows that a step needs, or whole files (tokens); see docs/data.md."""
    frame_bytes: int = 262144
    """Bytes of text per independently compressed frame of the cache: the unit that is shuffled."""
    files_per_group: int = 8
    """Files of a source that are ingested and shuffled together."""
    max_bad_share: float = 0.001
    """Share of unreadable records in a file above which the file is refused (text)."""
    repetition_filter: RepetitionFilterConfig = field(default_factory=RepetitionFilterConfig)
    """Which rows are masked out of the loss because they repeat a pattern."""
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    """Rows to evaluate on, never trained on."""

    def validate(self) -> None:
        """Raises DataError, naming the key and the remedy, for values that no stream can be built from."""
        _require(bool(self.root), "root", "is not set; name the folder that holds the data")
        problem = query_problem(self.root)
        _require(problem is None, "root", problem or "")
        _require(self.seed >= 0, "seed", f"must be 0 or more, not {self.seed}")
        _require(self.num_workers >= 0, "num_workers", f"must be 0 or more, not {self.num_workers}")
        for key in ("num_streams", "prefetch", "frame_bytes", "files_per_group"):
            _require(getattr(self, key) >= 1, key, f"must be 1 or more, not {getattr(self, key)}")
        _require(0.0 <= self.max_bad_share <= 1.0, "max_bad_share", f"must lie in [0, 1], not {self.max_bad_share}")
        bound = self.max_cache_gib
        _require(bound is None or bound > 0.0, "max_cache_gib", f"must be above 0, or null for no bound, not {bound}")
        rule = self.repetition_filter
        _require(
            1 <= rule.min_period <= rule.max_period,
            "repetition_filter.min_period",
            f"must lie between 1 and max_period ({rule.max_period}), not {rule.min_period}",
        )
        _require(rule.max_count >= 2, "repetition_filter.max_count", f"must be 2 or more, not {rule.max_count}")
        if self.kind is DataKind.text:
            self._validate_text()
        else:
            self._validate_tokens()
        self.validation.validate(self.kind)

    def _validate_text(self) -> None:
        self._validate_sources()
        _require(self.tokenizer is not None, "tokenizer", "is not set; name the tokenizer.json that encodes the text")

    def _validate_sources(self) -> None:
        _require(bool(self.sources), "sources", "is empty; name at least one source with files and a weight")
        for name, source in self.sources.items():
            source.validate(f"sources.{name}", self.kind)
        total = sum(source.weight for source in self.sources.values())
        _require(
            total > 0.0,
            "sources",
            f"have no weight above 0; give at least one of them a share, as in data.sources.{next(iter(self.sources))}"
            ".weight=1",
        )

    def _validate_tokens(self) -> None:
        if self.file_list is None:
            lists = "name the text file that lists the .npy paths, or .npy files with weights in data.sources"
            _require(bool(self.sources), "file_list", f"is not set; {lists}")
            for name, source in self.sources.items():
                are_tokens = all(pattern.endswith(".npy") for pattern in source.files)
                _require(are_tokens, "file_list", f"is not set, and data.sources.{name}.files are no .npy; {lists}")
            self._validate_sources()
        known = self.eos_token_id is not None or self.tokenizer is not None
        _require(known, "eos_token_id", "is not set; give it, or set data.tokenizer to look it up in")


def _require(holds: bool, key: str, problem: str) -> None:
    if not holds:
        raise DataError(f"data.{key} {problem}")
