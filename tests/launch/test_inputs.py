"""What a run would read is looked at before any process starts: ids that the model has not are one line."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.config import SourceConfig, TokenDtype
from launch.inputs import check_inputs
from tests.composing import run_app
from tests.launch.launching import SMALL
from tests.train.tiny import VOCAB_SIZE, tiny, write_tokens
from train.errors import TrainError


def test_a_tokenizer_that_is_not_the_models_is_found_before_a_start(tmp_path: Path, sample: Path) -> None:
    _, [config] = run_app(*SMALL, f"run_root={tmp_path}", f"data.root={sample}")
    check_inputs(config)
    other = tmp_path / "tokenizer.json"
    other.write_text(json.dumps({"model": 1}))
    for changed, problem in (
        (
            {"model": replace(config.model, vocab_size=500)},
            r"the tokenizer of the data has ids up to 511, but model.vocab_size=500: set",
        ),
        (
            {"model": replace(config.model, eos_token_id=500)},
            r"documents of the data end with id \d+, but model.eos_token_id=500: set",
        ),
        ({"data": replace(config.data, eos_token="<eos>")}, "data.eos_token: '<eos>' is not a special token of "),
        (
            {"position_watch": replace(config.position_watch, probe_tokenizer="absent.json")},
            r"position_watch.probe_tokenizer: there is no file .*absent.json; name a tokenizer.json",
        ),
        ({"data": replace(config.data, tokenizer=str(other))}, "is not a tokenizer.json"),
    ):
        with pytest.raises(TrainError, match=problem):
            check_inputs(replace(config, **changed))


def test_token_files_of_another_model_are_found_before_a_start(tmp_path: Path) -> None:
    write_tokens(tmp_path / "tokens")
    check_inputs(tiny(tmp_path))
    with pytest.raises(TrainError, match=r"part-0.npy holds token id \d+, but model.vocab_size=9: it was made with"):
        check_inputs(tiny(tmp_path, model__vocab_size=9))
    with pytest.raises(TrainError, match=r"documents of the data end with id 3, but model.eos_token_id=0"):
        check_inputs(tiny(tmp_path, data__eos_token_id=3))


def test_sources_of_token_files_are_looked_at_as_they_are_stored(tmp_path: Path) -> None:
    write_tokens(tmp_path / "tokens")
    np.arange(600, dtype="<u2").tofile(tmp_path / "tokens" / "short.npy")
    sources = {
        "long": SourceConfig(["part-*.npy"], 1.0),
        "short": SourceConfig(["short.npy"], 1.0, token_dtype=TokenDtype.uint16),
    }
    changes = {"data__file_list": None, "data__sources": sources}
    check_inputs(tiny(tmp_path, **changes, model__vocab_size=600))
    with pytest.raises(TrainError, match=rf"short.npy holds token id 599, but model.vocab_size={VOCAB_SIZE}"):
        check_inputs(tiny(tmp_path, **changes))
    sources["gone"] = SourceConfig(["gone/*.npy"], 1.0)
    with pytest.raises(TrainError, match=r"data.sources.gone.files: 'gone/\*.npy' matches no file"):
        check_inputs(tiny(tmp_path, **changes))
