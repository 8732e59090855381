"""model/hf_config.py: what an export says of its positions, and what an import makes of what a file says."""

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from model import weights
from model.config import ModelConfig, PositionsConfig, YarnConfig
from model.errors import ModelError
from model.export import save_hf
from model.hf_config import file_layers, hf_config
from model.transformer import Olmo2
from model.weights import Weights, initialise, parameter_shapes, random_weights
from tests.model.described import ROPE_YARN, YARN, described, load
from tests.model.small import REPO, ROPE, built, small

NOPE, R2N1, N2R1 = (PositionsConfig(scheme=name) for name in ("nope", "r2n1", "n2r1"))
REPO_FROM = [PositionsConfig(start_layer=start) for start in range(3)]
MIXED = PositionsConfig(scheme="list", layers=["nope", "repo", "rope"])
YARN_2 = YarnConfig(factor=2.0, original_max_position=64)
REPO_YARN = PositionsConfig(start_layer=1, yarn=YARN)
ALL = {
    "rope": ROPE,
    "nope": NOPE,
    "r2n1": R2N1,
    "n2r1": N2R1,
    "repo from 0": REPO_FROM[0],
    "repo from 1": REPO_FROM[1],
    "repo from 2": REPO_FROM[2],
    "mixed": MIXED,
    "rope with yarn": ROPE_YARN,
    "repo with yarn": REPO_YARN,
    "rope with half the yarn": PositionsConfig(scheme="rope", yarn=YARN_2),
}


def test_both_spellings_say_where_learned_positions_start() -> None:
    assert hf_config(small(), REPO, "float32")["pe_config"] == {
        "dynamic_pe_mode": "swigluex_multihead",
        "dynamic_pe_start_layer": 1,
        "dynamic_pe_layer_ids": "",
        "dynmaic_pe_start_layer": 1,
        "dynmaic_pe_layer_ids": "",
    }
    hybrid = hf_config(small(num_layers=7), PositionsConfig(scheme="r2n1"), "float32")
    assert hybrid["pe_config"]["dynamic_pe_mode"] == "nope"
    assert hybrid["pe_config"]["dynmaic_pe_layer_ids"] == "2,5"
    assert hybrid["layer_positions"] == ["rope", "rope", "nope", "rope", "rope", "nope", "rope"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"hidden_act": "gelu"}, 'config.json has hidden_act "gelu" and not "silu"'),
        ({"attention_bias": True}, "config.json has attention_bias true and not false"),
        ({"head_dim": 8}, "config.json has head_dim 8 and not 16"),
        ({"quantization_config": {"bits": 4}}, 'config.json has quantization_config {"bits": 4} and not null'),
        ({"clip_qkv": 8.0}, "config.json has clip_qkv 8.0 and not null"),
        ({"sliding_window": 4096}, "config.json has sliding_window 4096 and not null"),
        (
            {"layer_types": ["sliding_attention", "sliding_attention", "full_attention"]},
            'layer_types ["sliding_attention", "full_attention"] and not ["full_attention"]',
        ),
        ({"layer_types": "full"}, 'config.json has layer_types "full" and not ["full_attention"]'),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5, "partial_rotary_factor": 0.5}},
            "config.json has partial_rotary_factor 0.5 and not 1.0",
        ),
        ({"repo_width": 5}, "config.json has repo_width 5, but model.hidden_size and positions.hidden_divisor give 8"),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
            'has rope_theta "500000.0 in one place and 10000.0 in rope_parameters"',
        ),
        ({"position_precision": "reference"}, "set positions.precision=reference"),
        ({"norm_precision": "reference"}, "set model.norm_precision=reference"),
    ],
)
def test_settings_that_change_the_arithmetic_are_compared(
    exports: dict[str, Path], tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    with pytest.raises(ModelError) as raised:
        load(described(exports["repo from 1"], tmp_path / "changed", **changed), REPO)
    assert said in str(raised.value)


def test_settings_that_state_the_only_arithmetic_are_fine(exports: dict[str, Path], tmp_path: Path) -> None:
    stated = {"layer_types": ["full_attention"] * 3, "attention_bias": False, "head_dim": 16}
    folder = described(exports["repo from 1"], tmp_path / "stated", **stated)
    description = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(description | {"clip_qkv": None, "sliding_window": None}))
    load(folder, REPO)


def test_another_rounding_is_a_change_where_a_run_begins(
    exports: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = described(exports["repo from 1"], tmp_path / "rounded", position_precision="reference")
    with caplog.at_level(logging.INFO):
        load(folder, REPO, is_conversion=True)
    assert "position_precision reference, but positions.precision is float32" in caplog.text


def test_what_pe_config_cannot_express_is_left_out_of_it() -> None:
    mixed = PositionsConfig(scheme="list", layers=["nope", "repo", "rope"])
    description = hf_config(small(), mixed, "float32")
    assert description["layer_positions"] == ["nope", "repo", "rope"]
    assert "pe_config" not in description and "pe_config" not in hf_config(small(), ROPE, "float32")


@pytest.fixture(scope="module", autouse=True)
def shapes_once() -> Iterator[None]:
    """Builds a model for its shapes once, not for each of a thousand checkpoints."""
    known: dict[str, dict[str, tuple[int, ...]]] = {}

    def shapes(config: ModelConfig, positions: PositionsConfig) -> dict[str, tuple[int, ...]]:
        key = repr((config, positions))
        if key not in known:
            known[key] = parameter_shapes(config, positions)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "parameter_shapes", shapes)
        yield


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every kind of model, exported."""
    root = tmp_path_factory.mktemp("exports")
    for name, positions in ALL.items():
        model = built(small(), positions, seed=3)
        save_hf(root / name, small(), positions, model.named_parameters())
    return {name: root / name for name in ALL}


def with_remedy(positions: PositionsConfig, message: str) -> PositionsConfig:
    """The configuration after typing what a message says."""
    typed = re.findall(r"positions\.([\w.]+=[^\s;':]+)", message)
    changed = OmegaConf.merge(OmegaConf.structured(positions), OmegaConf.from_dotlist(typed))
    found = OmegaConf.to_object(changed)
    assert isinstance(found, PositionsConfig)
    return found


def logits(loaded: Weights, positions: PositionsConfig) -> torch.Tensor:
    model = Olmo2(small(), positions)
    initialise(model, loaded, "cpu")
    return model(torch.arange(90).reshape(1, 90)).detach()


@pytest.mark.parametrize("is_conversion", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_a_checkpoint_loads_as_what_it_is(exports: dict[str, Path], name: str, is_conversion: bool) -> None:
    weights = load(exports[name], ALL[name], is_conversion=is_conversion)
    assert torch.equal(logits(weights, ALL[name]), logits(random_weights(small(), ALL[name], 3), ALL[name]))


# Rows are checkpoints, columns are configurations: "=" the same, "c" a conversion only, "." refused.
TABLE = """
                         rope nope r2n1 n2r1 repo0 repo1 repo2 mixed rope+y repo+y rope+y2
rope                     =    c    c    c    c     c     c     c     c      c      c
nope                     .    =    .    .    .     .     .     .     .      .      .
r2n1                     .    .    =    .    .     .     .     .     .      .      .
n2r1                     .    .    .    =    .     .     .     .     .      .      .
repo from 0              .    .    .    .    =     .     .     .     .      .      .
repo from 1              .    .    .    .    .     =     .     .     .      c      .
repo from 2              .    .    .    .    .     .     =     .     .      .      .
mixed                    .    .    .    .    .     .     .     =     .      .      .
rope with yarn           .    .    .    .    .     .     .     .     =      c      .
repo with yarn           .    .    .    .    .     .     .     .     .      =      .
rope with half the yarn  .    .    .    .    .     .     .     .     .      .      =
"""
CASES = [
    (line[:24].strip(), configured, verdict)
    for line in TABLE.strip("\n").splitlines()[1:]
    for configured, verdict in zip(ALL, line[24:].split(), strict=True)
]


@pytest.mark.parametrize(("name", "configured", "verdict"), CASES)
def test_a_contradiction_is_refused_and_a_backbone_may_be_converted(
    exports: dict[str, Path], caplog: pytest.LogCaptureFixture, name: str, configured: str, verdict: str
) -> None:
    caplog.set_level(logging.INFO, "model")
    for is_conversion in (False, True):
        if verdict == "=" or (verdict == "c" and is_conversion):
            load(exports[name], ALL[configured], is_conversion=is_conversion)
            assert len([record for record in caplog.records if record.name == "model.weights"]) == (verdict == "c")
        else:
            with pytest.raises(ModelError, match="does not hold the model that is configured") as raised:
                load(exports[name], ALL[configured], is_conversion=is_conversion)
            message = str(raised.value)
            assert "keys" not in message and "\n" not in message  # the cause is said, not its consequences
            load(exports[name], with_remedy(ALL[configured], message), is_conversion=is_conversion)


@pytest.mark.parametrize(
    ("name", "configured", "said"),
    [
        (
            "nope",
            ROPE,
            "has nope in every layer, but positions.scheme=rope gives rope in every layer: set positions.sch",
        ),
        (
            "rope",
            NOPE,
            "has rope in every layer, but positions.scheme=nope gives nope in every layer: set positions.sch",
        ),
        (
            "repo from 1",
            REPO_FROM[0],
            "config.json's layer_positions has rope in layer 0, repo in layers 1-2, but positions.scheme=repo gives "
            "repo in every layer: set positions.scheme=repo positions.start_layer=null",
        ),
        ("repo from 1", REPO_FROM[2], "but positions.scheme=repo gives rope in layers 0-1, repo in layer 2: set"),
        ("rope with yarn", ROPE, "has YaRN with factor 4, but positions.yarn is null: add +positions/yarn=default "),
        ("rope", ROPE_YARN, "config.json has no YaRN, but positions.yarn has factor 4.0: set positions.yarn=null"),
        (
            "rope with yarn",
            PositionsConfig(scheme="rope", yarn=YARN_2),
            "factor 4 and positions.yarn.factor is 2: set positions.yarn.factor=4 ",
        ),
    ],
)
def test_a_contradiction_names_both_values_and_the_remedy(
    exports: dict[str, Path], name: str, configured: PositionsConfig, said: str
) -> None:
    with pytest.raises(ModelError) as raised:
        load(exports[name], configured)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("configured", "said"),
    [
        (REPO, "2 of 3 layers change from rope to repo in layers 1-2, with fresh maps"),
        (NOPE, "3 of 3 layers change from rope to nope in every layer"),
        (N2R1, "2 of 3 layers change from rope to nope in layers 0-1"),
        (MIXED, "2 of 3 layers change from rope to nope in layer 0, repo in layer 1, with fresh maps"),
        (REPO_YARN, "rotations change to YaRN with factor 4.0; 2 of 3 layers change from rope to repo in layers 1-2"),
    ],
)
def test_a_conversion_says_what_changes(
    exports: dict[str, Path], caplog: pytest.LogCaptureFixture, configured: PositionsConfig, said: str
) -> None:
    caplog.set_level(logging.INFO, "model")
    weights = load(exports["rope"], configured, is_conversion=True)
    [record] = caplog.records
    assert record.getMessage().startswith(f"{exports['rope']}: {said}")
    for name in parameter_shapes(small(), configured):
        seed = 5 if ".positions." in name else 3
        assert torch.equal(weights(name), random_weights(small(), configured, seed)(name)), name


def published(start: Any = 1, layer_ids: Any = "", mode: str = "swigluex_multihead") -> dict[str, Any]:
    """As the published converter writes it."""
    return {
        "dynamic_pe_mode": mode,
        "dynamic_pe_start_layer": start,
        "dynamic_pe_layer_ids": layer_ids,
        "dynmaic_pe_start_layer": start,
        "dynmaic_pe_layer_ids": layer_ids,
        "dynamic_pe_init_pdrop": 1.0,
    }


@pytest.mark.parametrize(
    ("name", "pe_config", "positions"),
    [
        ("repo from 1", published(), REPO),
        ("repo from 1", published(0, "1,2"), REPO),
        ("repo from 1", published(1.0, None), REPO),
        ("repo from 1", {"dynamic_pe_mode": "swigluex_multihead", "dynmaic_pe_start_layer": 1}, REPO),
        ("repo from 1", {"dynamic_pe_mode": "swigluex_multihead", "dynamic_pe_start_layer": 1}, REPO),
        ("repo from 0", {"dynamic_pe_mode": "swigluex_multihead"}, REPO_FROM[0]),
        ("repo from 1", None, REPO),  # the maps alone say it
        ("nope", published(0, mode="nope"), NOPE),
        ("r2n1", published(0, "2", mode="nope"), R2N1),
        ("rope", published(0, mode="none"), ROPE),
    ],
)
def test_published_descriptions_are_read_in_both_spellings(
    exports: dict[str, Path], tmp_path: Path, name: str, pe_config: Any, positions: PositionsConfig
) -> None:
    folder = described(exports[name], tmp_path / "published", layer_positions=None, pe_config=pe_config)
    assert torch.equal(logits(load(folder, positions), positions), logits(load(exports[name], positions), positions))
    wrong = REPO_FROM[2] if positions.scheme != "repo" else ROPE
    with pytest.raises(ModelError, match=r"does not hold .* in every layer|does not hold .* set positions"):
        load(folder, wrong)


@pytest.mark.parametrize("layer", [0, 2])
def test_one_layer_may_be_given_as_a_number(layer: int) -> None:
    _, names = file_layers({"pe_config": published(0, layer, mode="nope")}, [], 3)
    assert names == ["nope" if each == layer else "rope" for each in range(3)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layer_positions": ["rope", "repoo", "repo"]}, 'layer_positions names "repoo", which is no position scheme'),
        ({"layer_positions": ["rope", "repo"]}, 'layer_positions is ["rope", "repo"]; it must list 3 schemes'),
        ({"layer_positions": "repo"}, 'layer_positions is "repo"; it must list 3 schemes'),
        (
            {"layer_positions": ["rope", "nope", "repo"], "pe_config": published()},
            "but config.json's pe_config (dynamic_pe_mode swigluex_multihead",
        ),
        ({"layer_positions": ["repo"] * 3, "pe_config": None}, "but the tensors have position maps in layers 1-2: use"),
        ({"layer_positions": ["rope"] * 3, "pe_config": None}, "but the tensors have position maps in layers 1-2: use"),
        ({"layer_positions": None, "pe_config": published(0)}, "but the tensors have position maps in layers 1-2: use"),
        ({"pe_config": published(mode="cope")}, "pe_config has dynamic_pe_mode cope, "),
        ({"pe_config": published() | {"dynmaic_pe_start_layer": 0}}, "make both spellings the same"),
        ({"pe_config": {}}, "config.json's pe_config has no dynamic_pe_mode: of its modes there are here nope, "),
        ({"pe_config": published() | {"dynamic_pe_mode": None}}, "has no dynamic_pe_mode, dynmaic_pe_start_layer 1, "),
        ({"pe_config": published("first")}, "a layer and a list of layers were expected"),
        ({"pe_config": published(1.9)}, "start_layer 1.9; a layer and a list of layers were expected"),
        ({"pe_config": published(True)}, "start_layer true; a layer and a list of layers were expected"),
        ({"pe_config": published(0, False)}, "layer_ids false; a layer and a list of layers were expected"),
        ({"pe_config": [1]}, "pe_config is [1]; it must be an object"),
        (
            {"rope_scaling": {"type": "linear", "factor": 2.0}},
            'rope_scaling is of type "linear"; only yarn is known here',
        ),
        ({"rope_parameters": {"rope_type": "yarn"}}, "a factor and numbers beside it were expected"),
        ({"rope_parameters": [2]}, "rope_parameters is [2]; it must be an object"),
    ],
)
def test_a_description_that_is_wrong_in_itself_is_refused(
    exports: dict[str, Path], tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    folder = described(exports["repo from 1"], tmp_path / "wrong", **changes)
    for is_conversion in (False, True):
        with pytest.raises(ModelError) as raised:
            load(folder, REPO, is_conversion=is_conversion)
        assert said in str(raised.value) and "\n" not in str(raised.value)
