"""The tokenizer files of an export: tokenizer.json as it is, and a tokenizer_config.json that names the right class.

The class must be `PreTrainedTokenizerFast`. Published OLMo-2 folders say `GPT2Tokenizer`; beside another `model_type`
transformers then builds GPT-2's own splitting of text, and gives other ids without a word.
"""

import json
from pathlib import Path
from typing import Any

from model.config import ModelConfig
from model.errors import ModelError, require

NAME = "tokenizer.json"


def tokenizer_files(path: Path, config: ModelConfig, max_length: int) -> dict[str, bytes]:
    """Returns the contents of the tokenizer files by name; `max_length` is the longest context, in tokens.

    Raises ModelError if the file is no tokenizer.json, has ids beyond the vocabulary, or lacks the EOS token.
    """
    try:
        content = path.read_bytes()
        saved: dict[str, Any] = json.loads(content)
        tokens = tokens_by_id(path)
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not a tokenizer.json ({error}); give the tokenizer of the data") from None
    largest, eos = max(tokens, default=-1), tokens.get(config.eos_token_id)
    require(
        largest < config.vocab_size,
        f"{path} has ids up to {largest}, but model.vocab_size is {config.vocab_size}; give the tokenizer of the data",
    )
    require(
        eos is not None,
        f"{path} has no token {config.eos_token_id}, which is model.eos_token_id; give the tokenizer of the data",
    )
    if saved.get("truncation") or saved.get("padding"):  # left by other uses; would cut texts in silence
        content = json.dumps(saved | {"truncation": None, "padding": None}, ensure_ascii=False).encode()
    special = {token["id"] for token in saved.get("added_tokens") or [] if token.get("special")}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
        "eos_token": eos,
    }
    if config.pad_token_id in special:
        settings["pad_token"] = tokens[config.pad_token_id]
    return {NAME: content, "tokenizer_config.json": (json.dumps(settings, indent=2) + "\n").encode()}


def tokens_by_id(path: Path) -> dict[int, str]:
    """Returns all tokens of a tokenizer.json. Raises ValueError if the library cannot read it."""
    from tokenizers import Tokenizer  # not at the top: most of those who read model/ need none

    try:
        vocabulary = Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True)
    except Exception as error:  # the library raises bare Exception
        raise ValueError(str(error)) from error
    return {number: token for token, number in vocabulary.items()}
