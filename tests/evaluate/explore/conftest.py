"""Two small models of different schemes, asked by the explorer."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from evaluate.explore.explorer import Explorer, Shown
from evaluate.explore.pages import served_page
from evaluate.explore.server import Server
from evaluate.subject import ModelSubject
from model.config import PositionsConfig
from tests.model.small import built, small

MAX_TOKENS = 300
FIRST_TEXT = "The table of words.\nIt has a second line, and the words of the table again.\n" * 2


def shown(name: str, layers: list[str], tokenizer: Path, **sizes: int) -> Shown:
    """A model with these schemes, bottom first; two query heads share a key head, unless the sizes say otherwise."""
    config = small(vocab_size=512, num_layers=len(layers), **(sizes or {"num_kv_heads": 2}))
    model = built(config, PositionsConfig("list", layers=layers))
    with torch.no_grad():
        for _, module in model.learned_positions():
            final = module.get_parameter("final.weight")  # zero in residual layers
            final.normal_(std=2.0, generator=torch.Generator().manual_seed(0))
    subject = ModelSubject(model.eval(), Tokenizer.from_file(str(tokenizer)), torch.device("cpu"), [0])
    return Shown(name, subject, trained_length=64)


@pytest.fixture(scope="session")
def models(sample: Path) -> list[Shown]:
    """Models of RoPE, RePo and NoPE layers, and of residual ones."""
    tokenizer = sample / "tokenizer.json"
    return [
        shown("mixed", ["rope", "repo", "nope"], tokenizer),
        shown("residual", ["rope", "residual", "residual"], tokenizer),
    ]


@pytest.fixture(scope="session")
def server(models: list[Shown]) -> Iterator[Server]:
    """A server of both models on a port of its own."""
    explorer = Explorer(models, MAX_TOKENS)
    with Server(explorer, served_page(explorer, FIRST_TEXT), port=0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
