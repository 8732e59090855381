"""Patterns of positions that are made by hand, the null values, and a model whose positions are known."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE

from evaluate.__main__ import main
from evaluate.analyses.patterns import check_learned, null_shares, pattern_row, position_figures
from evaluate.analyses.texts import TextsConfig
from evaluate.errors import EvaluateError
from evaluate.subject import ModelSubject
from model.config import PositionsConfig
from model.position_statistics import patterns
from model.transformer import Olmo2
from tests.model.small import built, small

RADIANS = torch.ones(8, dtype=torch.float64)


def shares(z_t: torch.Tensor, suffix: str = "") -> list[float]:
    figures = position_figures(z_t[:, None], RADIANS)
    return [round(float(figures[f"{name}{suffix}"]), 3) for name in ("constant", "mono", "hybrid")]


def test_a_line_is_constant_or_mono_by_its_slope_and_noise_is_hybrid() -> None:
    t = torch.arange(160, dtype=torch.float64)
    assert shares(torch.zeros(160)) == [1, 0, 0] == shares(torch.zeros(160), "_relative")
    assert shares(0.026 * t) == [1, 0, 0]  # below 0.4 over 15 steps: constant is tested first
    assert shares(0.0268 * t) == [0, 1, 0] == shares(-t)
    assert shares(t, "_relative") == [1, 0, 0]  # slow, beside the whole text
    noise = torch.randn(160, generator=torch.Generator().manual_seed(1))
    assert shares(noise) == [0, 0, 1] and shares(0.01 * noise) == [1, 0, 0]
    assert shares(0.01 * noise, "_relative") == shares(1000 * noise, "_relative")  # no longer a matter of scale


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("noise", {0.05: 100, 0.1: 54, 0.15: 6, 0.2: 0.4}),
        ("walk", {0.02: 100, 0.05: 84, 0.1: 21, 0.2: 0.4}),
    ],
)
def test_null_values(kind: str, expected: dict[float, float]) -> None:
    scale = torch.tensor(list(expected), dtype=torch.float64)
    found = null_shares(kind, scale, torch.full_like(scale, 0.2))
    for constant, percent in zip((100 * found["constant"]).tolist(), expected.values(), strict=True):
        assert constant == pytest.approx(percent, abs=1.0)
    assert (found["mono"] < 2e-4).all()
    assert torch.allclose(found["constant"], found["constant_relative"])  # eps is 0.2 in both


def test_null_values_are_what_counting_gives() -> None:
    steps = torch.randn(1, 1, 16 * 4000, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    z = 0.08 * steps.unflatten(-1, (-1, 16)).cumsum(-1).flatten(2)
    counted = patterns(z, torch.tensor([16.0 * 4000]))
    found = null_shares("walk", torch.tensor([0.08], dtype=torch.float64), torch.ones(1))
    assert float(counted["constant_share"]) == pytest.approx(float(found["constant"]), abs=0.02)
    assert float(null_shares("noise", torch.zeros(1), torch.zeros(1))["constant"]) == 1


def subject_of(sample: Path, model: Olmo2) -> ModelSubject:
    return ModelSubject(model, Tokenizer.from_file(str(sample / "tokenizer.json")), torch.device("cpu"), [0])


def test_positions_of_tokens_alone_are_as_wide_in_any_order(sample: Path) -> None:
    model = built(small(vocab_size=512, num_layers=2, num_kv_heads=2), PositionsConfig("repo", start_layer=0))
    row = pattern_row(subject_of(sample, model), TextsConfig(), 64, 0)
    assert len(row["text"]["range"]) == 2 and len(row["text"]["range"][0]) == 2
    assert row["text"]["range"][0] == row["shuffled"]["range"][0]  # the lowest layer sees one token
    assert row["text"]["range"][1] != row["shuffled"]["range"][1]
    assert row["text"]["rank_correlation"][0] != row["shuffled"]["rank_correlation"][0]


def test_residual_positions_are_read_as_deviations(sample: Path) -> None:
    model = built(small(vocab_size=512), PositionsConfig("residual", start_layer=1))
    row = pattern_row(subject_of(sample, model), TextsConfig(), 32, 0)
    assert row["text"]["range"] == [[0.0] * 4] * 2 and row["text"]["constant"] == [[1.0] * 4] * 2


def test_shorter_texts_are_the_beginning_of_longer_ones(sample: Path, tmp_path: Path) -> None:
    subject = subject_of(sample, built(small(vocab_size=512), PositionsConfig("repo")))
    config = TextsConfig()
    texts = [config.tokens(0, length, subject) for length in (32, 100)]
    assert texts[0] == texts[1][:32] and len(texts[1]) == 100 and texts[1] != config.tokens(1, 100, subject)
    assert config.lengths(256, (4, 2, 1)) == [64, 128, 256]
    with pytest.raises(EvaluateError, match="length=8 must be 16 or more"):
        TextsConfig(length=[8]).lengths(256, (4, 2, 1))
    with pytest.raises(
        EvaluateError, match=r"yarn has a factor for length 512, which is none of length=\[64, 128, 256\]"
    ):
        TextsConfig(yarn={512: 2.0}).lengths(256, (4, 2, 1))
    of_q = Tokenizer(BPE({"q": 0}, []))  # all other letters are left out
    with pytest.raises(EvaluateError, match="100 words have only"):
        config.tokens(0, 100, replace(subject, tokenizer=of_q))


def test_texts_of_a_file_keep_their_white_space(sample: Path, tmp_path: Path) -> None:
    subject = subject_of(sample, built(small(vocab_size=512), PositionsConfig("repo")))
    (tmp_path / "lines.txt").write_text("def  one\n\n    two\n" * 500)
    (tmp_path / "line.txt").write_text("def one two " * 500)
    lines, line = (TextsConfig(texts=str(tmp_path / name)) for name in ("lines.txt", "line.txt"))
    assert "def  one\n\n    two\ndef  one" in subject.decode(lines.tokens(0, 64, subject))
    assert lines.settings()["texts"] != line.settings()["texts"]


def test_a_model_that_learns_no_positions_is_refused() -> None:
    with pytest.raises(EvaluateError, match="here: no layer learns positions"):
        check_learned(built(small(), PositionsConfig("rope")), "here")


def test_the_command_counts_goes_on_and_draws(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    for count in (2, 3):
        arguments = [str(folder), "length=32,64", f"num_texts={count}", "--out", str(out)]
        assert main(["patterns", *arguments]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[2] for line in said if line.startswith("| 64 |")][-5:-1] == [
        "the text",
        "shuffled tokens",
        "null: noise of the same std",
        "null: walk of the same steps",
    ]
    noise = [line for line in said if line.startswith("| 64 |") and "noise" in line][-1]
    assert noise.split(" | ")[5] == "0.0 [0.0, 63.2]"  # Mono: three texts alike are no certainty
    assert len((out / "patterns/text-64.jsonl").read_text().splitlines()) == 3
    assert main(["page", str(out)]) == 0
    assert "Range d against the length" in (out / "page.html").read_text()
