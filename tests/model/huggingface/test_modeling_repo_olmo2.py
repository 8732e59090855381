"""The code that an export carries computes what model/ computes, and generates the same with every cache."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, StaticCache

from model.config import ModelConfig, NormPrecision, PositionPrecision, PositionsConfig, YarnConfig
from model.export import save_hf
from model.huggingface.flavours import CODE, CODE_FILES
from model.positions import SCHEMES
from model.weights import hf_keys
from tests.model.small import built, small

MIXED = PositionsConfig("list", layers=["rope", "repo", "nope"])
YARN = PositionsConfig("repo", start_layer=1, yarn=YarnConfig(factor=4.0, original_max_position=16))
ROUNDED = PositionsConfig("repo", start_layer=1, precision=PositionPrecision.reference, hidden_divisor=4)
MODELS: dict[str, tuple[ModelConfig, PositionsConfig]] = {
    "mixed": (small(), MIXED),
    "grouped_queries": (small(num_kv_heads=2), MIXED),
    "yarn": (small(), YARN),
    "reference": (small(norm_precision=NormPrecision.reference), ROUNDED),
}
TOKENS = torch.randint(2, 96, (2, 40), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An export of each model, in several files."""
    root = tmp_path_factory.mktemp("exports")
    for name, (config, positions) in MODELS.items():
        parameters = built(config, positions).named_parameters()
        save_hf(root / name, config, positions, parameters, 40_000, max_position_embeddings=64)
    return {name: root / name for name in MODELS}


def load(folder: Path, **settings: Any) -> Any:
    from_pretrained: Any = AutoModelForCausalLM.from_pretrained
    model, found = from_pretrained(folder, trust_remote_code=True, output_loading_info=True, **settings)
    assert not any(found.values())
    return model.eval()


@pytest.fixture(scope="module")
def loaded(folders: dict[str, Path]) -> dict[str, Any]:
    """Each export as transformers loads it."""
    return {name: load(folder) for name, folder in folders.items()}


@pytest.mark.parametrize("use_cache", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_logits_equal_the_models_to_the_bit(loaded: dict[str, Any], name: str, use_cache: bool) -> None:
    with torch.no_grad():
        expected = built(*MODELS[name])(TOKENS)
        assert torch.equal(loaded[name](TOKENS, use_cache=use_cache).logits, expected)


@pytest.mark.parametrize("name", MODELS)
def test_bfloat16_logits_equal_the_models_too(folders: dict[str, Path], loaded: dict[str, Any], name: str) -> None:
    ours = built(*MODELS[name]).bfloat16()
    converted = load(folders[name]).to(torch.bfloat16)
    assert torch.equal(converted.model.rotation.turn_bits, loaded[name].model.rotation.turn_bits)
    with torch.no_grad():
        expected = ours(TOKENS)
        assert torch.equal(load(folders[name], dtype=torch.bfloat16)(TOKENS).logits, expected)
        assert torch.equal(converted(TOKENS).logits, expected)


@pytest.fixture(params=["none", "tf32", "bf16"])
def float32_precision(request: pytest.FixtureRequest) -> Iterator[None]:
    """What torch may round operands of float32 products to on a CPU."""
    matmul = cast(Any, torch.backends.mkldnn).matmul
    matmul.fp32_precision = request.param
    yield
    matmul.fp32_precision = "none"


@pytest.mark.usefixtures("float32_precision")
def test_positions_equal_the_models_whatever_settings_say(loaded: dict[str, Any]) -> None:
    ours, theirs = dict(built(*MODELS["mixed"]).learned_positions())[1], loaded["mixed"].model.layers[1].self_attn
    h = 8 * torch.randn(2, 40, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = theirs.positions_of(h, torch.arange(40).reshape(1, 40, 1))
        assert found.dtype == torch.float32 and torch.equal(found, ours(h))


def test_attention_without_a_fused_kernel_agrees(folders: dict[str, Path], loaded: dict[str, Any]) -> None:
    for name in ("mixed", "grouped_queries"):
        eager = load(folders[name], attn_implementation="eager")
        output = eager(TOKENS, output_attentions=True, output_hidden_states=True)
        torch.testing.assert_close(output.logits, loaded[name](TOKENS).logits, atol=2e-5, rtol=0)
        assert [len(output.attentions), len(output.hidden_states)] == [3, 4]
        torch.testing.assert_close(output.attentions[0].sum(-1), torch.ones(2, 4, 40))


def test_positions_are_returned_with_their_layers(loaded: dict[str, Any]) -> None:
    ours = built(*MODELS["grouped_queries"])
    seen: list[Tensor] = []
    [(_, positions)] = ours.learned_positions()
    positions.register_forward_hook(lambda module, args, z: seen.append(z))
    with torch.no_grad():
        ours(TOKENS)
        output = loaded["grouped_queries"](TOKENS, output_positions=True)
        base = loaded["grouped_queries"].model(TOKENS, output_positions=True)
        silent = loaded["grouped_queries"](TOKENS)
    assert output.position_layers == base.position_layers == (1,)
    assert torch.equal(output.positions[0], seen[0]) and torch.equal(base.positions[0], seen[0])
    assert silent.positions is None and silent.position_layers is None


def generate(model: Any, tokens: Tensor, **settings: Any) -> Tensor:
    return model.generate(tokens, **{"max_new_tokens": 12, "do_sample": False, "eos_token_id": None} | settings)


@pytest.mark.parametrize("name", ["grouped_queries", "yarn"])
def test_a_cache_changes_no_token(loaded: dict[str, Any], name: str) -> None:
    model, prompt = loaded[name], TOKENS[:, :20]
    expected = generate(model, prompt, use_cache=False)
    assert torch.equal(generate(model, prompt), expected)
    assert torch.equal(generate(model, prompt, cache_implementation="static"), expected)
    beams = {"num_beams": 3, "max_new_tokens": 6}
    best = generate(model, prompt, use_cache=False, **beams)
    assert not torch.equal(best, expected[:, : best.shape[1]])
    assert torch.equal(generate(model, prompt, **beams), best)
    assert torch.equal(generate(model, prompt, cache_implementation="static", **beams), best)
    drawn = []
    for use_cache in (False, True):
        torch.manual_seed(0)
        drawn.append(generate(model, prompt, use_cache=use_cache, do_sample=True))
    assert torch.equal(*drawn)


@pytest.mark.parametrize("name", ["grouped_queries", "yarn"])
def test_generating_can_go_on_from_a_returned_cache(loaded: dict[str, Any], name: str) -> None:
    model, prompt = loaded[name], TOKENS[:, :20]
    first: Any = generate(model, prompt, max_new_tokens=5, return_dict_in_generate=True)
    longer = torch.cat((first.sequences, TOKENS[:, 20:27]), dim=1)  # as in a conversation
    continued = generate(model, longer, past_key_values=first.past_key_values)
    assert torch.equal(continued, generate(model, longer, use_cache=False))


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("name", ["grouped_queries", "yarn"])
def test_a_returned_cache_can_be_continued(loaded: dict[str, Any], name: str, static: bool) -> None:
    model = loaded[name]
    cache = StaticCache(config=model.config, max_cache_len=40) if static else None
    with torch.no_grad():
        first = model(TOKENS[:, :15], past_key_values=cache, use_cache=True)
        second = model(TOKENS[:, 15:], past_key_values=first.past_key_values)
        whole = model(TOKENS)
    logits = torch.cat((first.logits, second.logits), dim=1)
    torch.testing.assert_close(logits, whole.logits, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["grouped_queries", "yarn"])
def test_left_padding_changes_no_token(loaded: dict[str, Any], name: str) -> None:
    model, long, short = loaded[name], TOKENS[0, :20], TOKENS[1, :7]
    padded = torch.stack((long, torch.cat((torch.zeros(13, dtype=torch.int64), short))))
    mask = torch.ones_like(padded)
    mask[1, :13] = 0
    settings: dict[str, Any]
    for settings in ({}, {"cache_implementation": "static"}, {"num_beams": 3, "max_new_tokens": 6}):
        both = generate(model, padded, attention_mask=mask, **settings)
        assert torch.equal(both[0], generate(model, long[None], **settings)[0])
        assert torch.equal(both[1, 13:], generate(model, short[None], **settings)[0])


def test_yarn_can_be_set_when_loading(folders: dict[str, Path]) -> None:
    yarn = {"rope_type": "yarn", "rope_theta": 500000.0, "factor": 4.0, "original_max_position_embeddings": 16}
    longer = load(folders["mixed"], rope_parameters=yarn, max_position_embeddings=64)
    config, plain = MODELS["mixed"]
    assert YARN.yarn == YarnConfig(factor=4.0, original_max_position=16)
    with torch.no_grad():
        expected = built(config, replace(plain, yarn=YARN.yarn))(TOKENS)
        assert torch.equal(longer(TOKENS).logits, expected)
        assert not torch.equal(expected, built(config, plain)(TOKENS))


def test_fine_tuning_has_the_models_gradients_with_checkpointing_and_without(folders: dict[str, Path]) -> None:
    config, positions = MODELS["grouped_queries"]
    theirs, ours = load(folders["grouped_queries"]).train(), built(config, positions)
    labels = torch.nn.functional.pad(TOKENS[:, 1:], (0, 1), value=-100)
    torch.nn.functional.cross_entropy(ours(TOKENS).flatten(0, 1), labels.flatten()).backward()
    keys, losses = hf_keys(config, positions), []
    for checkpointing in (False, True):
        if checkpointing:
            theirs.gradient_checkpointing_enable()
        theirs.zero_grad()
        loss = theirs(TOKENS, labels=TOKENS).loss
        loss.backward()
        losses.append(loss.detach())
        for name, expected in ours.named_parameters():
            found = theirs.get_parameter(keys[name]).grad
            torch.testing.assert_close(found, expected.grad, atol=1e-5, rtol=1e-4, msg=name)
    assert torch.equal(*losses)


def test_the_code_travels_with_a_saved_model(loaded: dict[str, Any], tmp_path: Path) -> None:
    loaded["yarn"].save_pretrained(tmp_path)
    for code in CODE_FILES:
        assert (tmp_path / code.name).read_bytes() == code.read_bytes()
    assert torch.equal(load(tmp_path)(TOKENS).logits, loaded["yarn"](TOKENS).logits)
    base = AutoModel.from_pretrained(tmp_path, trust_remote_code=True)
    assert torch.equal(base(TOKENS).last_hidden_state, loaded["yarn"].model(TOKENS).last_hidden_state)


def test_without_its_code_a_folder_is_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        AutoModelForCausalLM.from_pretrained(folders["mixed"], trust_remote_code=False)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layer_positions": None}, "has no layer_positions"),
        (
            {"layer_positions": ["rope", "learned", "nope"]},
            "names 'learned'; this code knows rope, nope, repo, residual",
        ),
        ({"layer_positions": ["rope", "repo"]}, "lists 2 layers, but num_hidden_layers is 3"),
        ({"position_precision": "half"}, "position_precision is 'half'"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "can be 'default' or 'yarn'"),
    ],
)
def test_a_config_of_another_model_is_refused(
    folders: dict[str, Path], tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    folder = shutil.copytree(folders["mixed"], tmp_path / "changed")
    saved = json.loads((folder / "config.json").read_text())
    if "rope_parameters" in changes:
        saved.pop("rope_scaling")
    (folder / "config.json").write_text(json.dumps(saved | changes))
    with pytest.raises(ValueError, match=said):
        AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)


def test_the_code_knows_the_schemes_that_say_so(folders: dict[str, Path]) -> None:
    config = AutoConfig.from_pretrained(folders["mixed"], trust_remote_code=True)
    module = __import__(type(config).__module__, fromlist=["SCHEMES"])
    assert set(module.SCHEMES) == {name for name, scheme in SCHEMES.items() if scheme.in_remote_code}


def test_the_code_is_as_vllm_needs_it(loaded: dict[str, Any]) -> None:
    # It looks for this very call, and replaces every nn.Linear by a layer whose weight cannot be read.
    assert CODE.read_text().count("ALL_ATTENTION_FUNCTIONS.get_interface(") == 1
    attention = loaded["mixed"].model.layers[1].self_attn
    assert not any(isinstance(attention.get_submodule(f"{name}_map"), torch.nn.Linear) for name in ("gate", "final"))
    assert {"AutoModel", "AutoModelForCausalLM", "AutoConfig"} == loaded["mixed"].config.auto_map.keys()
