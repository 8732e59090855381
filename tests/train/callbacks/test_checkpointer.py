"""What a finished run leaves for others: its fp32 weights in Hugging Face's layout."""

import torch
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
from transformers import Olmo2ForCausalLM

from model.weights import hf_weights, is_position_parameter, parameter_shapes, random_weights
from tests.train.conftest import Runs
from train.compose.app import load_run_config


def test_the_export_holds_the_masters_of_the_last_checkpoint(exports: Runs) -> None:
    folder = exports.folder("exported")
    config = load_run_config(folder.config)
    weights = hf_weights(folder.hf, config.model, config.positions, seed=0)
    masters = get_fp32_state_dict_from_zero_checkpoint(str(folder.checkpoints), tag="step-0000002")
    shapes = parameter_shapes(config.model, config.positions)
    assert masters.keys() == shapes.keys()
    assert all(torch.equal(weights(name), masters[name]) for name in shapes)
    assert any(not torch.equal(value, value.bfloat16().float()) for value in masters.values())
    assert Olmo2ForCausalLM.from_pretrained(folder.hf).config.max_position_embeddings == config.sequence_length


def test_a_run_starts_from_the_weights_of_a_finished_one_and_fresh_positions(exports: Runs) -> None:
    folder = exports.folder("imported")
    config = load_run_config(folder.config)  # its rate is zero: what it exports is what it started from
    backbone = exports.folder("exported").hf
    source = hf_weights(backbone, config.model, config.positions, config.seed, is_conversion=True)
    weights = hf_weights(folder.hf, config.model, config.positions, seed=0)
    fresh = random_weights(config.model, config.positions, config.seed)
    for name in parameter_shapes(config.model, config.positions):
        assert torch.equal(weights(name), source(name)), name
        if is_position_parameter(name):
            assert torch.equal(weights(name), fresh(name)), name


def test_an_unfinished_run_exports_nothing(stages: Runs) -> None:
    assert not stages.folder("other-launch").hf.exists()
