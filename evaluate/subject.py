"""What is asked: a model with its tokenizer. Answers are greedy, with keys and values kept (model/generate.py)."""

from dataclasses import dataclass
from typing import Protocol

import torch
import xxhash
from tokenizers import Tokenizer

from model.generate import most_likely
from model.loss import IGNORED
from model.transformer import Olmo2


class Subject(Protocol):
    """Anything that reads and writes tokens."""

    def encode(self, text: str) -> list[int]:
        """Returns the tokens of a text, special ones left out."""

    def decode(self, tokens: list[int]) -> str:
        """Returns the text of tokens."""

    def continued(self, tokens: list[int], max_new_tokens: int) -> list[int]:
        """Returns the most likely tokens that follow, one after the other, up to EOS or so many."""

    def nll(self, tokens: list[int], answer: list[int]) -> float:
        """Returns the negative log-likelihood of the answer after the tokens: the sum over its tokens, in nats."""


@dataclass(frozen=True)
class ModelSubject:
    """A model in training form, on its device."""

    model: Olmo2
    tokenizer: Tokenizer
    device: torch.device
    eos_token_ids: list[int]
    """The tokens at which an answer ends."""

    def encode(self, text: str) -> list[int]:
        """Returns the tokens of a text, special ones left out."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, tokens: list[int]) -> str:
        """Returns the text of tokens."""
        return str(self.tokenizer.decode(tokens))

    def continued(self, tokens: list[int], max_new_tokens: int) -> list[int]:
        """Returns the most likely tokens that follow, one after the other, up to EOS or so many."""
        prompt = torch.tensor(tokens, device=self.device)
        return most_likely(self.model, prompt, max_new_tokens, self.eos_token_ids)

    @torch.no_grad()
    def nll(self, tokens: list[int], answer: list[int]) -> float:
        """Returns the negative log-likelihood of the answer after the tokens: the sum over its tokens, in nats."""
        text = torch.tensor(tokens + answer, device=self.device)
        labels = text[1:].clone()
        labels[: len(tokens) - 1] = IGNORED
        return float(self.model(text[None, :-1], labels[None]).ce)

    def digests(self) -> dict[str, str]:
        """Returns what tells these weights and this tokenizer from others."""
        weights = xxhash.xxh3_128()
        for name, parameter in self.model.named_parameters():
            weights.update(name.encode())
            weights.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return {
            "weights": weights.hexdigest(),
            "tokenizer": xxhash.xxh3_128(self.tokenizer.to_str().encode()).hexdigest(),
        }
