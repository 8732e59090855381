"""Tokenizers of tests, and what `tokenizers` makes of a text."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers

EOS = "<|endoftext|>"
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|pad|>"
    "{{ '<|endoftext|>' if loop.first else '<|pad|> ' }}\n{% endfor %}"
)


def as_defined(path: Path, texts: Sequence[str]) -> list[list[int]]:
    """What `tokenizers` gives, by its plainest call."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.encode_special_tokens = True
    end = tokenizer.get_vocab()[EOS]
    return [[*tokenizer.encode(text, add_special_tokens=False).ids, end] for text in texts]


def with_other_parts(path: Path) -> Tokenizer:
    """Returns the tokenizer with a normalizer, digits one by one, a prefix space, and tokens that take white space."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=True)]
    )
    tokenizer.add_tokens([AddedToken("|||PHONE|||", normalized=False), AddedToken("<mask>", lstrip=True, rstrip=True)])
    tokenizer.add_special_tokens(["<|pad|>", "<|im_start|>"])
    return tokenizer
