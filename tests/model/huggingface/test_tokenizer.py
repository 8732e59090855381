"""The tokenizer of an export gives the ids of the data, beside our own model type too."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

from model.config import PositionsConfig
from model.errors import ModelError
from model.export import save_hf
from model.huggingface.tokenizer import tokenizer_files
from tests.model.small import ROPE, built, small

TEXT = "It's 12345 tokens,\n\n  don't you  think? DON'T\t<|endoftext|>x"
PATTERN = (  # of cl100k
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Byte-level with the split of cl100k, as dolma2 has it, which GPT-2's own class would replace."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(PATTERN, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|pad|>", "<|endoftext|>"]
    made.train_from_iterator(
        [TEXT] * 3, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    )
    made.enable_truncation(8)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made.save(str(path))
    return path


@pytest.mark.parametrize("positions", [ROPE, PositionsConfig("nope")])
def test_ids_are_those_of_the_file_beside_every_model_type(
    tokenizer: Path, tmp_path: Path, positions: PositionsConfig
) -> None:
    config = small(vocab_size=400)
    files = tokenizer_files(tokenizer, config, 4096)
    save_hf(tmp_path / "out", config, positions, built(config, positions).named_parameters(), other_files=files)
    loaded = AutoTokenizer.from_pretrained(tmp_path / "out", trust_remote_code=True)
    original = Tokenizer.from_file(str(tokenizer))
    original.no_truncation()
    assert loaded(TEXT)["input_ids"] == original.encode(TEXT).ids
    assert loaded.decode(loaded(TEXT)["input_ids"]) == TEXT
    assert [loaded.eos_token, loaded.pad_token, loaded.model_max_length] == ["<|endoftext|>", "<|pad|>", 4096]


def test_a_pad_token_that_is_an_ordinary_word_is_not_hidden(tokenizer: Path) -> None:
    files = tokenizer_files(tokenizer, small(vocab_size=400, pad_token_id=5), 64)
    assert "pad_token" not in json.loads(files["tokenizer_config.json"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vocab_size": 96}, "but model.vocab_size is 96"),
        ({"vocab_size": 500, "eos_token_id": 450}, "has no token 450, which is model.eos_token_id"),
    ],
)
def test_a_tokenizer_of_another_model_is_refused(tokenizer: Path, changes: dict[str, int], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        tokenizer_files(tokenizer, small(**changes), 64)
