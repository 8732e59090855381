"""Attention mass of models whose attention is known, and of real prompts."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from evaluate.__main__ import main
from evaluate.analyses.attention import AttentionConfig, Queries, attention_row, masses, parts_of, planned
from evaluate.config import parse_settings
from evaluate.errors import EvaluateError
from evaluate.layers import read_layers, rows_of_attention
from evaluate.subject import ModelSubject
from model.attention import attention_weights
from model.config import PositionsConfig, YarnConfig
from model.transformer import Block, Olmo2
from report.evaluation.attention import PARTS
from tests.evaluate.too_long import length_too_short_from
from tests.model.small import built, small

FIRST, NEEDLE, QUERY, REST, OWN = range(len(PARTS))
SCHEMES = ["rope", "repo", "nope", "residual"]


def mixed(**changes: int) -> Olmo2:
    """A model with a layer of each scheme, two query heads to a key head, and YaRN."""
    yarn = YarnConfig(factor=2.0, original_max_position=16)
    model = built(small(num_layers=4, num_kv_heads=2, **changes), PositionsConfig("list", layers=SCHEMES, yarn=yarn))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "positions" in name:
                parameter.normal_(std=0.3)  # residual positions begin at zero
    return model


def test_rows_are_those_of_attention_weights_and_of_the_forward_pass() -> None:
    model, tokens = mixed(), torch.arange(2, 25)
    inputs: list[torch.Tensor] = []
    blocks = [block for block in model.layers if isinstance(block, Block)]
    hooks = [block.register_forward_pre_hook(lambda _, given: inputs.append(given[0])) for block in blocks]
    model(tokens[None])
    for hook in hooks:
        hook.remove()
    reads = list(read_layers(model, tokens))
    assert [read.block.positions.scheme.name for read in reads] == SCHEMES
    for read, h_btd in zip(reads, inputs, strict=True):
        whole = torch.cat(list(rows_of_attention(read, 0, 23)), dim=1)
        assert torch.allclose(whole, attention_weights(read.q_thd[None], read.k_thd[None])[0], atol=1e-6)
        rows = torch.cat(list(rows_of_attention(read, 19, 23, max_scores=1)), dim=1)  # a row at a time
        assert torch.allclose(rows, whole[:, 19:], atol=1e-6)
        attention = read.block.attention
        v_thd = attention.v_proj(h_btd)[0].unflatten(-1, (2, -1)).repeat_interleave(2, dim=1)
        out = attention.o_proj(torch.einsum("hqk,khd->qhd", whole, v_thd).flatten(1))
        positions = read.block.positions(h_btd)
        assert torch.allclose(out, attention(h_btd, positions, None)[0], atol=1e-5)


def test_masses_sum_to_one_and_do_not_depend_on_chunks() -> None:
    model, tokens = mixed(), torch.arange(2, 42)
    parts = torch.randint(0, len(PARTS), (40,), generator=torch.Generator().manual_seed(0))
    whole, chunked = (masses(model, tokens, parts, 33, 40, max_scores) for max_scores in (2**20, 2 * 4 * 40))
    assert whole.shape == (4, 4, len(PARTS))
    assert torch.allclose(whole.sum(-1), torch.ones(4, 4, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(whole, chunked, atol=1e-7)


def test_uniform_attention_gives_every_token_the_same_mass() -> None:
    model = built(small(), PositionsConfig("repo", start_layer=1))
    for block in model.layers:
        assert isinstance(block, Block)
        torch.nn.init.zeros_(block.attention.q_norm.weight)
    parts = torch.tensor([FIRST, REST, NEEDLE, NEEDLE, QUERY, REST, OWN, OWN])
    found = masses(model, torch.arange(2, 10), parts, 6, 8)
    expected = {FIRST: 1, NEEDLE: 2, QUERY: 1, REST: 2}
    for part, count in expected.items():
        assert torch.allclose(found[..., part], torch.tensor(count * (1 / 7 + 1 / 8) / 2, dtype=torch.float64))


def test_a_head_that_looks_at_the_needle_alone_has_all_its_mass_there() -> None:
    needle, other = 5, 6
    model = built(small(num_layers=1), PositionsConfig("nope"))
    block = model.layers[0]
    assert isinstance(block, Block)
    a, b, u = torch.eye(64)[0], torch.eye(64)[1], torch.zeros(64)
    u[16:32] = 1.0  # of the second of four heads
    with torch.no_grad():
        model.embed_tokens.weight[needle], model.embed_tokens.weight[other] = a, b
        block.attention.q_proj.weight.copy_(torch.outer(u, a + b))
        block.attention.k_proj.weight.copy_(torch.outer(u, a - b))
        block.attention.q_norm.weight.fill_(3.0)
    tokens = torch.tensor([other, other, needle, needle, other, other, other])
    parts = torch.tensor([FIRST, REST, NEEDLE, NEEDLE, QUERY, OWN, OWN])
    found = masses(model, tokens, parts, 5, 7)[0]
    assert found[1, NEEDLE] > 0.999 and found[0, NEEDLE] == pytest.approx((2 / 6 + 2 / 7) / 2, abs=1e-6)


@pytest.fixture(scope="module")
def subject(sample: Path) -> ModelSubject:
    tokenizer = Tokenizer.from_file(str(sample / "tokenizer.json"))
    model = built(small(vocab_size=512, num_layers=1), PositionsConfig("nope"))
    return ModelSubject(model, tokenizer, torch.device("cpu"), [0])


@pytest.mark.parametrize("task", ["niah_single_1", "niah_single_3", "niah_multikey_2", "niah_multivalue"])
def test_parts_are_the_tokens_that_they_are_named_for(subject: ModelSubject, task: str) -> None:
    config = AttentionConfig(task=[task], value_digits=5)
    ((_, samples),) = planned(config, subject, [1500]).items()
    for index in range(2):
        fitted = samples[index]
        parts, tokens = parts_of(subject, fitted), fitted.prompt + fitted.answer
        texts = [
            subject.decode([t for t, own in zip(tokens, parts.tolist(), strict=True) if own == i]) for i in range(5)
        ]
        assert all(value in texts[NEEDLE] for value in fitted.sample.gold)
        assert len(texts[NEEDLE]) <= sum(map(len, fitted.sample.gold)) + 4 * len(fitted.sample.gold)
        assert texts[QUERY].strip().startswith("What ") and texts[QUERY].endswith(("text are", "text is"))
        assert texts[OWN] == fitted.sample.answer and len(texts[FIRST]) >= 1
        row = attention_row(subject, fitted, Queries.answer)
        total = torch.tensor([row["mass"][name] for name in PARTS]).sum(0)  # type: ignore[index]
        assert torch.allclose(total, torch.ones(1, 4), atol=1e-4)


def test_predicting_queries_are_one_token_earlier(subject: ModelSubject) -> None:
    ((_, samples),) = planned(AttentionConfig(task=["niah_single_1"]), subject, [600]).items()
    fitted = samples[0]
    tokens, parts = torch.tensor(fitted.prompt + fitted.answer), parts_of(subject, fitted)
    start = len(fitted.prompt) - 1
    expected = masses(subject.model, tokens, parts, start, start + len(fitted.answer))
    row = attention_row(subject, fitted, Queries.predicting)
    assert row["mass"]["own"][0] == pytest.approx(expected[0, :, OWN].tolist(), abs=1e-5)  # type: ignore[index]


def test_settings_that_fit_nothing_are_refused(subject: ModelSubject) -> None:
    with pytest.raises(EvaluateError, match="task=copy is no needle task: choose from niah_single_1"):
        AttentionConfig(task=["copy"]).probes()
    with pytest.raises(EvaluateError, match="no task fits: length=60"):
        planned(AttentionConfig(), subject, [60])


def test_the_command_measures_goes_on_and_draws(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, settings = tmp_path / "out", ["task=niah_single_1", "length=400", "max_new_tokens=8"]
    assert main(["attention", str(folder), *settings, "num_samples=2", "--out", str(out)]) == 0
    kept = (out / "attention/niah_single_1-400.jsonl").read_text()
    assert main(["attention", str(folder), *settings, "num_samples=3", "--out", str(out)]) == 0
    said = capsys.readouterr().out.splitlines()
    rows = (out / "attention/niah_single_1-400.jsonl").read_text()
    assert rows.startswith(kept) and [json.loads(line)["index"] for line in rows.splitlines()] == [0, 1, 2]
    layers = [line.split(" | ")[2] for line in said if line.startswith("| niah_single_1")]
    assert layers[-4:] == ["all", "rope", "repo", "nope"]
    assert main(["page", str(out)]) == 0
    assert "needle, per token, by layer" in (out / "page.html").read_text()
    assert main(["attention", str(folder), *settings, "seed=1", "--out", str(out)]) == 2
    assert "has results of other settings (seed: 42 there, 1 here)" in capsys.readouterr().err


def test_a_task_that_turns_out_too_long_is_given_up_and_the_others_run(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    late = ["num_samples=3", "max_new_tokens=1", "value_digits=2"]
    monkeypatch.setattr("evaluate.samples.NUM_TRIED", 2)
    monkeypatch.setattr("evaluate.analyses.attention.DEFAULT_TASKS", ("niah_single_3", "niah_single_1"))
    length = f"length={length_too_short_from(2, folder, parse_settings(AttentionConfig, late).probes())}"
    assert main(["attention", str(folder), length, *late, "--out", str(tmp_path / "all")]) == 0
    said = capsys.readouterr()
    (line,) = [each for each in said.err.splitlines() if each.startswith("left out: 1 of 3 samples of niah_single_3: ")]
    assert f"{length}: niah_single_3 takes " in line and line.endswith("the table has the mean of the other 2")
    assert f"| niah_single_3 | {length[7:]} | " in said.out and f"| niah_single_1 | {length[7:]} | " in said.out
    assert main(["attention", str(folder), "task=niah_single_3", length, *late, "--out", str(tmp_path / "named")]) == 2
    assert "error: length=" in capsys.readouterr().err
