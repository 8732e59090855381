"""What tests ask in place of a trained model: one that answers by a rule, with a real tokenizer."""

from collections.abc import Callable
from pathlib import Path

from tokenizers import Tokenizer


class Answering:
    """Continues a text by a function of it. Every token of an answer costs it one nat."""

    def __init__(self, tokenizer: Path, answer: Callable[[str], str]) -> None:
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._answer = answer
        self.num_asked = 0

    def encode(self, text: str) -> list[int]:
        """Returns the tokens of a text."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, tokens: list[int]) -> str:
        """Returns the text of tokens."""
        return str(self._tokenizer.decode(tokens))

    def continued(self, tokens: list[int], max_new_tokens: int) -> list[int]:
        """Returns the first tokens of the answer."""
        self.num_asked += 1
        return self.encode(self._answer(self.decode(tokens)))[:max_new_tokens]

    def nll(self, tokens: list[int], answer: list[int]) -> float:
        """Returns the number of tokens."""
        del tokens
        return float(len(answer))
