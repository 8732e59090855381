"""Answers for the page: a text read by each model, and attention from a token. Numbers travel as float32.

An answer is a 32-bit length, little-endian, JSON of that length, and float32 numbers after it. The JSON is filled with
spaces so that the numbers lie at a multiple of four bytes, where a browser reads them in place.
"""

import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from evaluate.errors import EvaluateError
from evaluate.explore.reading import LayerPositions, Reading
from evaluate.subject import ModelSubject
from model.transformer import Attention

MAX_TOKENS = 16384  # of a text, unless another number is given
UNFINISHED = "\ufffd"  # what a tokenizer makes of some bytes of a character
MAX_BYTES = 4  # of a character, and so the tokens that it can have


class ClosedError(Exception):
    """The explorer is being closed."""


@dataclass(frozen=True)
class Shown:
    """A model to look at."""

    name: str
    subject: ModelSubject
    trained_length: int | None
    """The length that it was trained at, in tokens, if that is known."""

    @property
    def num_layers(self) -> int:
        """Layers of the model."""
        return len(self.subject.model.layers)

    @property
    def num_heads(self) -> int:
        """Query heads of a layer."""
        attention = self.subject.model.layers[0].attention
        assert isinstance(attention, Attention)
        return attention.q_proj.out_features // attention.head_dim


class Explorer:
    """One or two models, and what they read last. Any thread may ask; one is answered at a time.

    Raises EvaluateError if the models have different tokenizers.
    """

    def __init__(self, models: Sequence[Shown], max_tokens: int = MAX_TOKENS) -> None:
        self.models = tuple(models)
        self.max_tokens = max_tokens
        self._lock = threading.Lock()
        self._is_closed = threading.Event()
        self._last: tuple[str, list[Reading]] | None = None
        if len({shown.subject.tokenizer.to_str() for shown in models}) > 1:
            names = " and ".join(shown.name for shown in models)
            raise EvaluateError(f"{names} have different tokenizers: they read different tokens")

    def read(self, text: str) -> bytes:
        """Returns the tokens of a text and its positions: float32 of models, layers, rows and T, in this order.

        Raises EvaluateError for an empty text or one that is too long.
        """
        with self._lock:
            start = time.perf_counter()
            readings = self._readings(text)
            seconds = time.perf_counter() - start
        header = {
            "pieces": pieces(self.models[0].subject.tokenizer, self.encode(text)),
            "seconds": round(seconds, 4),
            "models": [
                {"num_heads": shown.num_heads, "layers": [_said(layer) for layer in reading.layers]}
                for shown, reading in zip(self.models, readings, strict=True)
            ],
        }
        return packed(header, [layer.z for reading in readings for layer in reading.layers])

    def attention(self, text: str, model: int, layer: int, token: int) -> bytes:
        """Returns the attention from a token, float32 [H, token + 1]. Raises EvaluateError for what is not there."""
        return packed({}, [self.attention_rows(text, model, layer, token)])

    def attention_rows(self, text: str, model: int, layer: int, token: int) -> np.ndarray:
        """Returns the attention from a token, float32 [H, token + 1]. Raises EvaluateError for what is not there."""
        with self._lock:
            _check("model", model, len(self.models))
            _check("layer", layer, self.models[model].num_layers)
            reading = self._readings(text)[model]
            _check("token", token, reading.num_tokens)
            return reading.attention(layer, token)

    def close(self) -> None:
        """Ends what is being computed, before its next layer, and waits for that."""
        self._is_closed.set()
        with self._lock:
            self._last = None

    def encode(self, text: str) -> list[int]:
        """Returns the tokens of a text. Raises EvaluateError if there are none, or too many."""
        tokens = self.models[0].subject.encode(text)
        if not tokens:
            raise EvaluateError("the text is empty")
        if len(tokens) > self.max_tokens:
            raise EvaluateError(
                f"the text has {len(tokens):,} tokens, more than {self.max_tokens:,}: shorten it, or start with "
                "--max-tokens N"
            )
        return tokens

    def _readings(self, text: str) -> list[Reading]:
        """Returns each model's reading; the last text is kept."""
        if self._last is None or self._last[0] != text:
            tokens = self.encode(text)
            self._last = None  # its memory first
            readings = [
                Reading(subject.model, torch.tensor(tokens, device=subject.device), proceed=self._proceed)
                for subject in (shown.subject for shown in self.models)
            ]
            self._last = (text, readings)
        return self._last[1]

    def _proceed(self) -> None:
        if self._is_closed.is_set():
            raise ClosedError


def _said(layer: LayerPositions) -> dict[str, Any]:
    return {
        "scheme": layer.scheme,
        "is_learned": layer.is_learned,
        "adds_index": layer.adds_index,
        "rows": len(layer.z),
    }


def _check(what: str, number: int, count: int) -> None:
    if not 0 <= number < count:
        raise EvaluateError(f"there is no {what} {number}: they are 0 to {count - 1}")


def pieces(tokenizer: Tokenizer, tokens: Sequence[int]) -> list[str]:
    """Returns the text of each token.

    A character of several tokens is the text of the first of them; that of the others is empty.
    """
    found: list[str] = []
    while (start := len(found)) < len(tokens):
        for end in range(start + 1, min(start + MAX_BYTES, len(tokens)) + 1):
            text = tokenizer.decode(tokens[start:end], skip_special_tokens=False)
            if UNFINISHED not in text or _tokens(tokenizer, text) == list(tokens[start:end]):  # the text has one itself
                break
        else:  # bytes that are no character
            end = start + 1
            text = tokenizer.decode(tokens[start:end], skip_special_tokens=False)
        found += [text, *[""] * (end - start - 1)]
    return found


def _tokens(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def packed(header: Mapping[str, Any], arrays: Sequence[np.ndarray]) -> bytes:
    """Returns an answer: its header and its numbers."""
    text = json.dumps(header, allow_nan=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    numbers = [array.astype("<f4", copy=False).tobytes() for array in arrays]
    return b"".join([len(text).to_bytes(4, "little"), text, *numbers])
