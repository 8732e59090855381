"""transformers' own tests of every model and configuration pass on the code that an export carries.

They are in its source distribution, not in its wheel, and are fetched from the package index, with what they import.
"""

import os
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

STUBS = {  # what the source distribution lacks
    "generation/test_utils.py": "class GenerationTesterMixin: pass\n",
    "exporters/test_export.py": "class ExportTesterMixin: pass\n",
    "utils/test_configuration_utils.py": "config_common_kwargs = {}\n",
}

CHECKS = '''
import unittest

import torch

from model.huggingface.modeling_repo_olmo2 import RepoOlmo2Config, RepoOlmo2ForCausalLM, RepoOlmo2Model

from ...test_configuration_common import ConfigTester
from ...test_modeling_common import ModelTesterMixin, ids_tensor

SIZES = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "layer_positions": ["rope", "repo"],
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
}


class Sizes:
    """What the common tests ask of a model."""

    batch_size, seq_length, is_training = 5, 7, True
    hidden_size, num_hidden_layers, num_attention_heads = 32, 2, 4

    def get_config(self):
        return RepoOlmo2Config(**SIZES)

    def prepare_config_and_inputs_for_common(self):
        input_ids = ids_tensor([self.batch_size, self.seq_length], SIZES["vocab_size"])
        return self.get_config(), {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}


class RepoOlmo2Test(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (RepoOlmo2Model, RepoOlmo2ForCausalLM)
    all_generative_model_classes = ()  # tests/model/huggingface/test_modeling_repo_olmo2.py generates

    def setUp(self):
        self.model_tester = Sizes()
        self.config_tester = ConfigTester(self, config_class=RepoOlmo2Config, **SIZES)
        if "training" in self._testMethodName:  # the base model has no loss; the tests know library classes by name
            self.all_model_classes = (RepoOlmo2ForCausalLM,)

    def test_config(self):
        self.config_tester.run_common_tests()

    def _prepare_for_class(self, inputs, model_class, return_labels=False):
        labels = {"labels": inputs["input_ids"].clone()} if return_labels else {}
        return {**inputs, **labels}
'''


@pytest.mark.slow
def test_the_common_tests_of_transformers_pass(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    source = f"transformers=={version('transformers')}"
    download = [*pip, "download", "--no-binary", ":all:", "--no-deps", "--no-build-isolation", "-d", str(tmp_path)]
    subprocess.run([*download, source], check=True)
    subprocess.run([*pip, "install", "--no-deps", "--target", str(tmp_path / "extra"), "parameterized"], check=True)
    [archive] = tmp_path.glob("transformers-*.tar.gz")
    with tarfile.open(archive) as files:
        files.extractall(tmp_path, filter="data")
    unpacked = tmp_path / archive.name.removesuffix(".tar.gz")
    for name, text in {**STUBS, "models/repo/test_repo.py": CHECKS, "models/__init__.py": ""}.items():
        path = unpacked / "tests" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(text)
    (unpacked / "tests" / "__init__.py").touch()
    environment = os.environ | {"PYTHONPATH": f"{tmp_path / 'extra'}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "pytest", "tests/models/repo", "-q", "-W", "ignore", "-p", "no:cacheprovider"]
    ended = subprocess.run(command, cwd=unpacked, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-2000:]
    assert " passed" in ended.stdout
