"""A faster encoder of the same ids: fastokens, which is used only where it agrees with `tokenizers`.

`tokenizers` defines the ids. fastokens gives the same forty times faster, for the tokenizers that it knows. Nothing is
taken on trust: before it is used it encodes a fixed hostile corpus and the first documents of every source, and both
must come out the same (data/tokenizer.py).
"""

import hashlib
import itertools
import json
import os
import platform
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, lru_cache
from importlib import metadata
from pathlib import Path

import numpy as np
import tokenizers

from common.files import write_text_whole
from data.errors import DataError

THREADS = "FASTOKENS_BPE_THREADS"
FORMAT = "encoder-1"  # of the kept file, and of the corpus
RUN_LENGTH = 3000  # characters of a stretch without an end of a word
UNICODE_CHARACTERS = 4000

WHITE_SPACE = [
    *" \t\n\r\v\f\x1c\x85\u00a0\u1680\u180e\u2003\u200b\u2028\u2029\u202f\u3000\ufeff",
    "\r\n",
    "\n \n",
    "\t ",
]
CONTRACTIONS = "it's IT'S we'll WE'LL I'd I'D they'Re don't can\u2019t \u02bcs '\u017f 'S's ''s 's's K's \u0130's"
SCRIPTS = (
    "Stra\u00dfe \ufb01x \u01c5 \u0130stanbul \u03a9\u03c3\u03c2 \u0416\u0451 e\u0301 \u00e9 \u1e9b\u0323 \u202ea\u202c"
    " \ud55c\uad6d\uc5b4 \u1112\u1161\u11ab \u4e2d\u6587\u5b57\u7b26 \u304b\u306a\u30ab\u30ca \u0928\u093f\u0928\u094d"
    " \u0b95\u0bcd \u0e44\u0e17\u0e22\u0e33 \u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u05e9\u05c1\u05dc\u05d5\u05dd"
)
EMOJI = "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f3f3\ufe0f\u200d\U0001f308 \U0001f1e9\U0001f1ea 1\ufe0f\u20e3"
NUMBERS = "1 12 123 1234 12345678 3.14159 1,000,000 0x7fff \u0661\u0662\u0663 \u0be7\u0be8 \u2167 \u00bd\u00b2 1e-10"
CODE = 'def f(x):\n    return {"a": [x**2 for _ in y]}\r\n\r\n\tif (a!=b) && c->d::e<T>():\n\n\n        pass\n#####'


class FastEncoder:
    """fastokens in one thread."""

    def __init__(self, path: Path) -> None:
        """Reads a tokenizer.json; raises DataError, with a reason in few words, where it cannot."""
        # Data workers are the parallelism; and threads of its own would not survive the fork that starts them.
        os.environ[THREADS] = "1"
        try:
            from fastokens import Tokenizer

            self._tokenizer = Tokenizer.from_file(str(path))
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()
        except Exception as error:  # ImportError, or a kind of tokenizer that it does not know
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise DataError(f"cannot load this tokenizer ({reason[0]})") from error

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Returns the ids of all texts, one after the other, uint32; and where each text ends: int64 `[num_texts]`.

        Raises DataError, with a reason in few words, for texts that it gives up on.
        """
        try:
            ids, bounds = self._tokenizer.encode_batch_flat(list(texts), False, True)
        except Exception as error:
            raise DataError(f"cannot encode a text ({error})") from error
        return np.frombuffer(ids, "<u4"), np.frombuffer(bounds, "<u8")[1:].astype(np.int64)


@lru_cache(maxsize=2)
def load_fast(path: Path, sha256: str) -> FastEncoder:
    """Returns the encoder of a file with this content, loaded once in a process; raises DataError."""
    return FastEncoder(path)


@cache
def fast_name() -> str | None:
    """Returns the name and version of the fast encoder; None if it is not installed."""
    try:
        return f"fastokens {metadata.version('fastokens')}"
    except metadata.PackageNotFoundError:
        return None


def hostile_corpus(tokenizer: tokenizers.Tokenizer) -> list[str]:
    """Returns 60 KB of text that encoders get wrong: fixed, but for the tokenizer's own tokens, which it spells out."""
    added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    spelled = [f"a{token}b {token} {token[:-1]}\n{token}{token.upper()}" for token in added[:300]]
    pieces = tokenizer.get_vocab_size()
    vocabulary = [tokenizer.decode(list(range(first, pieces, 97))) for first in (0, 31)]
    rng = random.Random(0)
    unicode = [chr(_code_point(rng)) for _ in range(UNICODE_CHARACTERS)]
    parts = ["".join(unicode[start : start + 8]) for start in range(0, len(unicode), 8)]
    spaces = [f"a{space * count}b{space * count}" for space in WHITE_SPACE for count in (1, 2, 3, 7, 40)]
    words = [CONTRACTIONS, SCRIPTS, EMOJI, NUMBERS, CODE, *spaces]
    mixed = [first + second for first, second in itertools.product(rng.sample(parts, 12), rng.sample(words, 12))]
    letters = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=RUN_LENGTH))
    encoded = "".join(rng.choices("ABCabcXYZxyz0189+/", k=RUN_LENGTH))
    signs = "".join(rng.choices("!?.,;:(){}[]<>|#$%&*+-=_~^`'\"\\/@", k=RUN_LENGTH))
    runs = [letters, encoded, signs, "a" * RUN_LENGTH, " " * RUN_LENGTH, "\n" * RUN_LENGTH, "\r\n" * RUN_LENGTH]
    lines = ["one line of text\r\nand\ranother\n\r\n  " * 50, "".join(map(chr, range(256))), "\x00\x01\x7f", "", " "]
    return [*spelled, *vocabulary, *parts, *words, *mixed, *runs, *lines]


def _code_point(rng: random.Random) -> int:
    """Returns one that is not a surrogate, from all planes, the first of them most often."""
    number = rng.randrange(rng.choice([0x100, 0x800, 0x3100, 0x10000, 0x10000, 0x20000, 0x110000]))
    return number if not 0xD800 <= number < 0xE000 else 0xFFFD


@dataclass
class Known:
    """What is known of a tokenizer from earlier starts, kept in a folder: the next start need not load `tokenizers`."""

    eos_token_id: int
    """The id that ends documents."""
    max_token_id: int
    """The largest id."""
    special_ids: dict[str, int]
    """The ids of its special tokens, by their texts: what a chat template writes."""
    agreed: list[str] = field(default_factory=list)
    """What the fast encoder gives the same ids for: the corpus, and sources by their files."""

    def keep(self, folder: Path, key: str) -> None:
        """Writes it; a folder that cannot be written to means that the next start finds out again."""
        try:
            write_text_whole(_path(folder, key), json.dumps(asdict(self), indent=1), durable=False)
        except OSError:
            return


def read_known(folder: Path, key: str) -> Known | None:
    """Returns what an earlier start kept; None if there is nothing, or nothing readable."""
    try:
        known = Known(**json.loads(_path(folder, key).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return known if isinstance(known.agreed, list) and isinstance(known.special_ids, dict) else None


def key_of(sha256: str, eos_token: str) -> str:
    """Returns what it holds for: the tokenizer, both libraries, and the kind of processor."""
    parts = [FORMAT, sha256, eos_token, tokenizers.__version__, fast_name(), platform.machine()]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _path(folder: Path, key: str) -> Path:
    return folder / f".encoder-{key}.json"
