"""Positions that are replaced: what is left of a model then, and what the command writes."""

import json
from pathlib import Path

import pytest
import torch

from evaluate.__main__ import main
from evaluate.analyses.ablation import positions_replaced
from model.config import PositionsConfig, YarnConfig
from model.transformer import Olmo2
from model.yarn import with_yarn
from tests.model.small import built, small

TOKENS = torch.arange(2, 42)[None]


def trained(scheme: str) -> Olmo2:
    """A model whose learned positions are far from the index and from a constant."""
    model = built(small(), PositionsConfig(scheme, start_layer=1))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "positions" in name:
                parameter.normal_(std=0.5)
    return model


def logits_of(source: Olmo2, layers: list[str]) -> torch.Tensor:
    """Logits of a model of these schemes with the weights of `source`, where it has them."""
    other = built(small(), PositionsConfig("list", layers=layers))
    other.load_state_dict({key: value for key, value in source.state_dict().items() if key in other.state_dict()})
    return other(TOKENS).detach()


@pytest.mark.parametrize("scheme", ["repo", "residual"])
@pytest.mark.parametrize(("by", "instead"), [("index", "rope"), ("constant", "nope")])
def test_replaced_positions_make_the_model_that_they_stand_for(scheme: str, by: str, instead: str) -> None:
    model = trained(scheme)
    before = model(TOKENS).detach()
    for start, layers in ((1, ["rope", instead, instead]), (2, ["rope", scheme, instead])):
        with positions_replaced(model, start, by):
            replaced = model(TOKENS).detach()
        assert torch.allclose(replaced, logits_of(model, layers), atol=1e-5)
        assert not torch.allclose(replaced, before, atol=1e-3)
    assert torch.equal(model(TOKENS), before)  # the model is as it was


def test_a_constant_is_no_rotation_under_yarn_too() -> None:
    """YaRN stretches the index of residual positions and not the deviation, so the one cannot take the other away."""
    yarn = YarnConfig(factor=4.0, original_max_position=40)
    model, config = trained("residual"), PositionsConfig("residual", start_layer=1)
    stretched = with_yarn(model, small(), config, yarn)
    unmoved = built(small(), PositionsConfig("repo", start_layer=1, yarn=yarn))  # z = 0 with maps of zeros
    unmoved.load_state_dict(model.state_dict() | {k: v * 0 for k, v in model.state_dict().items() if "positions" in k})
    with positions_replaced(stretched, 1, "constant"):
        assert torch.allclose(stretched(TOKENS), unmoved(TOKENS), atol=1e-5)


def test_the_command_takes_differences_by_text(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["ablate", str(folder), "length=48", "num_texts=2", "--out", str(out)]) == 0
    rows = [json.loads(line) for line in (out / "ablation/text-48.jsonl").read_text().splitlines()]
    gaps = [row["replaced"]["constant"]["1"] - row["nll"] for row in rows]
    assert f"{sum(gaps) / 2:+.4f} ± " in capsys.readouterr().out
    assert main(["page", str(out)]) == 0
    assert "Layers without their positions" in (out / "page.html").read_text()
