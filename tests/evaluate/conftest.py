"""An export that tests ask."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from model.config import PositionsConfig
from model.export import save_hf
from model.huggingface.tokenizer import tokenizer_files
from tests.model.small import built, small


@pytest.fixture(scope="session")
def folder(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export with a tokenizer of 512 tokens, too small to answer anything."""
    path, folder = sample / "tokenizer.json", tmp_path_factory.mktemp("export") / "out"
    eos = Tokenizer.from_file(str(path)).token_to_id("<|endoftext|>")
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_heads": 2}
    config = small(vocab_size=512, eos_token_id=eos, pad_token_id=eos, **sizes)
    positions = PositionsConfig("list", layers=["rope", "repo", "nope"])
    files = tokenizer_files(path, config, 4096)
    parameters = built(config, positions).named_parameters()
    save_hf(folder, config, positions, parameters, max_position_embeddings=4096, other_files=files)
    return folder
