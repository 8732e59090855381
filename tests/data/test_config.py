"""The config dataclasses work as Hydra's structured configs and import nothing heavy."""

import subprocess
import sys

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, ValidationError

from data.config import DataConfig, DataKind


def test_a_yaml_is_checked_against_the_dataclass() -> None:
    schema = OmegaConf.structured(DataConfig)
    config = OmegaConf.to_object(
        OmegaConf.merge(schema, {"kind": "tokens", "root": "r", "sources": {"a": {"files": ["*"], "weight": 1}}})
    )
    assert isinstance(config, DataConfig)
    assert config.kind is DataKind.tokens and config.sources["a"].weight == 1.0
    with pytest.raises(ConfigKeyError):
        OmegaConf.merge(schema, {"sead": 1})
    with pytest.raises(ValidationError):
        OmegaConf.merge(schema, {"seed": "many"})


def test_configs_import_without_torch_numpy_or_tokenizers() -> None:
    code = "import sys, data, data.config; print([m for m in ('torch', 'numpy', 'tokenizers') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_streams_without_workers_never_import_torch() -> None:
    code = "import sys, data.stream, data.__main__; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
