"""Positions and attention of a text are those of the forward pass."""

from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor

from evaluate.errors import EvaluateError
from evaluate.explore.explorer import ClosedError, Explorer, Shown, pieces
from evaluate.explore.reading import Reading
from model.attention import attention_weights
from model.generate import learned_positions
from model.transformer import Block, Olmo2
from tests.evaluate.explore.answers import unpacked

TEXT = "The table of words, and of the words the table."


def weights_of_layers(model: Olmo2, tokens: Tensor) -> list[Tensor]:
    """The attention of each layer, [H, T, T]."""
    found, h_btd = [], model.embed_tokens(tokens[None])
    for block in model.layers:
        assert isinstance(block, Block)
        q, k, _ = block.attention.heads(h_btd, block.positions(h_btd))
        found.append(attention_weights(q, k)[0])
        h_btd = block(h_btd, None)
    return found


@pytest.mark.parametrize("index", [0, 1])
@torch.no_grad()
def test_attention_from_a_token_is_a_row_of_the_weights(models: list[Shown], index: int) -> None:
    subject = models[index].subject
    tokens = torch.tensor(subject.encode(TEXT))
    expected = weights_of_layers(subject.model, tokens)
    for reading in (Reading(subject.model, tokens), Reading(subject.model, tokens, kept_bytes=0)):
        for layer, weights_htt in enumerate(expected):
            for token in (0, 5, len(tokens) - 1):
                row = torch.from_numpy(reading.attention(layer, token))
                torch.testing.assert_close(row, weights_htt[:, token, : token + 1], rtol=1e-4, atol=1e-6)
                torch.testing.assert_close(row.sum(-1), torch.ones(4))


def test_positions_are_those_of_the_forward_pass(models: list[Shown]) -> None:
    header, numbers = unpacked(Explorer(models).read(TEXT))
    tokens = torch.tensor(models[0].subject.encode(TEXT))
    length, start = len(tokens), 0
    assert len(header["pieces"]) == length and "".join(header["pieces"]) == TEXT
    for model, said in zip(models, header["models"], strict=True):
        learned = learned_positions(model.subject.model, tokens)
        assert [layer for layer, of in enumerate(said["layers"]) if of["is_learned"]] == list(learned)
        for layer, of in enumerate(said["layers"]):
            z = torch.from_numpy(numbers[start : start + of["rows"] * length].reshape(of["rows"], length).copy())
            start += z.numel()
            assert of["adds_index"] == (of["scheme"] == "residual")
            if layer in learned:
                torch.testing.assert_close(z, learned[layer].T)
                assert z.std() > 0.1
            else:
                assert z.tolist() == ([list(range(length))] if of["scheme"] == "rope" else [])
    assert start == len(numbers)


def test_the_text_of_tokens_is_the_text(models: list[Shown]) -> None:
    tokenizer = models[0].subject.tokenizer
    for text in ("café 東京 \U0001f600!", "a\ufffdb", "<|endoftext|>x", "\x00\ufeff\u202e"):
        tokens = tokenizer.encode(text, add_special_tokens=False).ids
        found = pieces(tokenizer, tokens)
        assert "".join(found) == text and len(found) == len(tokens)
    assert "\ufffd" in "".join(pieces(tokenizer, tokenizer.encode("\u6771", add_special_tokens=False).ids[:1]))


def test_a_closed_explorer_computes_nothing_more(models: list[Shown]) -> None:
    explorer = Explorer(models)
    explorer.read(TEXT)
    explorer.close()
    with pytest.raises(ClosedError):
        explorer.read(TEXT)


def test_models_of_different_tokenizers_are_refused(models: list[Shown]) -> None:
    first, second = models
    tokenizer = Tokenizer.from_str(second.subject.tokenizer.to_str())
    tokenizer.add_tokens(["table"])
    with pytest.raises(EvaluateError, match="mixed and residual have different tokenizers"):
        Explorer([first, replace(second, subject=replace(second.subject, tokenizer=tokenizer))])
