"""An export of residual positions: the code that it carries computes the same, and the folder loads again."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from model.config import PositionsConfig, YarnConfig
from model.errors import ModelError
from model.export import save_hf
from model.generate import learned_positions, next_tokens
from model.transformer import Olmo2
from model.weights import hf_weights, initialise
from tests.model.positions.test_residual import TOKENS, YARN, logits, trained
from tests.model.small import built, small


@pytest.mark.parametrize("yarn", [None, YARN])
def test_exported_code_computes_the_same_and_the_export_loads(tmp_path: Path, yarn: YarnConfig | None) -> None:
    positions, sizes = PositionsConfig("residual", start_layer=1, yarn=yarn), {"num_kv_heads": 2}
    model, config = trained(positions, **sizes), small(**sizes)
    expected = logits(model)
    assert not torch.allclose(expected, logits(built(config, PositionsConfig("rope", yarn=yarn))), atol=1e-2)
    save_hf(tmp_path / "hf", config, positions, model.named_parameters(), max_position_embeddings=64)
    from_pretrained: Any = AutoModelForCausalLM.from_pretrained
    loaded = from_pretrained(tmp_path / "hf", trust_remote_code=True).eval()
    with torch.no_grad():
        output = loaded(TOKENS, output_positions=True)
    assert torch.equal(output.logits, expected) and output.position_layers == (1, 2)
    assert torch.equal(output.positions[0][0], learned_positions(model, TOKENS[0])[1])
    prompt = TOKENS[:1, :20]
    generated = loaded.generate(prompt, max_new_tokens=12, do_sample=False, eos_token_id=None)
    ours = next_tokens(model, prompt[0], temperature=0.0, generator=torch.Generator())
    assert generated[0, 20:].tolist() == [next(ours) for _ in range(12)]
    again = Olmo2(config, positions)
    initialise(again, hf_weights(tmp_path / "hf", config, positions, seed=9), "cpu")
    assert torch.equal(logits(again), expected)
    with pytest.raises(ModelError, match="residual in layers 1-2"):
        hf_weights(tmp_path / "hf", config, PositionsConfig("repo", start_layer=1, yarn=yarn), seed=9)
