"""A new position scheme is one file and one YAML: everything else works without being touched.

A copy of the product gets exactly these two files for each of two schemes; a process of its own then uses the schemes
from the command line to the export of a trained model.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

SLOPE = '''
"""Fixed slopes: head k of H counts its tokens in steps of (k + 1) / H."""

from model.positions.base import PositionScheme


class Slope(PositionScheme):
    """One real-valued slope per key-value head, without parameters."""

    name = "slope"
    is_tokenwise = True

    def positions(self, h_btd, maps):
        """Returns [B, T, H_kv] float32."""
        import torch

        rows, length, _ = h_btd.shape
        heads = self.model.key_value_heads
        slope_h = torch.arange(1, heads + 1, device=h_btd.device) / heads
        index_t = torch.arange(length, device=h_btd.device)
        return (index_t[:, None] * slope_h).expand(rows, length, heads)
'''

SUMS = '''
"""Positions that add up over the tokens: no export can keep keys by them."""

from model.positions.linear import Linear


class Sums(Linear):
    """Sums of the positions of `linear`."""

    name = "sums"
    hf_names = {"slope": "self_attn.sums_map"}
    published_mode = None

    def positions(self, h_btd, maps):
        """Returns z [B, T, H_kv]."""
        return maps["slope"](h_btd).cumsum(1)
'''

LINEAR = '''
"""Learned positions without an inner layer: z = W h."""

from model.positions.base import PositionScheme


class Linear(PositionScheme):
    """One position per key-value head, a linear map of the residual stream."""

    name = "linear"
    is_tokenwise = True
    is_learned = True
    symbols = {"slope": "W"}
    hf_names = {"slope": "self_attn.slope_map"}
    published_mode = "multihead_continuous"

    def maps(self):
        """Returns the shape of W."""
        return {"slope": (self.model.key_value_heads, self.model.hidden_size)}

    def positions(self, h_btd, maps):
        """Returns z [B, T, H_kv]."""
        return maps["slope"](h_btd)
'''

CHECKS = """
import json, sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from model.accounting import flops_per_token, num_parameters
from model.config import PositionsConfig
from model.errors import ModelError
from model.export import save_hf
from model.generate import Cache, _cached_logits
from model.huggingface.flavours import Flavour
from model.positions import learned_layers
from model.transformer import Olmo2
from model.weights import hf_keys, hf_weights, initialise, parameter_shapes, random_weights
from tests.composing import compose
from tests.train.tiny import tiny, write_tokens
from train.__main__ import work
from train.optimizer_config import OptimizerConfig
from train.optimizer import parameter_groups

here = Path(__file__).parent
assert Path(sys.modules["model.positions"].__file__).is_relative_to(here)
write_tokens(here / "tokens")
tokens = torch.randint(128, (2, 24))
rope = PositionsConfig(scheme="rope")


def built(config, positions, weights):
    model = Olmo2(config, positions)
    initialise(model, weights, "cpu")
    return model


def check(name, num_maps):
    composed = compose("experiment=demo", f"positions={name}")
    assert composed.positions == PositionsConfig(scheme=name)
    run = tiny(here, positions=composed.positions, model__num_layers=3)
    run.validate()
    config, positions = run.model, run.positions
    check_accounting(config, positions, num_maps)
    weights = random_weights(config, positions, 0)
    model = built(config, positions, weights)
    check_model(model, config, positions, num_maps)
    check_export(model, config, positions, num_maps)
    groups = {group["name"]: group["params"] for group in parameter_groups(model.named_parameters(), OptimizerConfig())}
    assert sum(map(len, groups.values())) == len(list(model.parameters()))
    assert [p.shape for p in groups.get("repo", [])] == [(2, 32)] * 3 * num_maps


def check_accounting(config, positions, num_maps):
    total = sum(torch.Size(shape).numel() for shape in parameter_shapes(config, positions).values())
    assert num_parameters(config, positions) == total
    extra = total - num_parameters(config, rope)
    assert extra == 3 * num_maps * 2 * 32  # layers, maps, heads, width
    assert flops_per_token(config, positions, 48, True) - flops_per_token(config, rope, 48, True) == 6 * extra


def check_model(model, config, positions, num_maps):
    logits = model(tokens)
    assert not torch.allclose(logits, built(config, rope, random_weights(config, rope, 0))(tokens), atol=1e-3)
    assert len(list(model.learned_positions())) == len(learned_layers(positions, 3)) == 3 * num_maps
    model(tokens, labels=tokens).total.backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters())
    mixed = PositionsConfig("list", layers=["rope", positions.scheme, "repo"])
    assert built(config, mixed, random_weights(config, mixed, 0))(tokens).shape == logits.shape


def check_export(model, config, positions, num_maps):
    name, folder = positions.scheme, here / f"hf-{positions.scheme}"
    keys = [key for key in hf_keys(config, positions).values() if ".self_attn.s" in key and "_map.weight" in key]
    assert len(keys) == 3 * num_maps
    if name == "sums":
        refused(lambda: save_hf(folder, config, positions, []), "set is_tokenwise in Sums if it does")
        return
    save_hf(folder, config, positions, model.named_parameters())
    check_reading(model, folder, name)
    published = here / f"published-{name}"
    if name == "slope":  # published forks have no word for it
        save = lambda: save_hf(published, config, positions, [], flavour=Flavour.published)
        refused(save, "cannot open scheme slope")
    else:
        save_hf(published, config, positions, model.named_parameters(), flavour=Flavour.published)
        described = json.loads((published / "config.json").read_text())
        assert described["layer_positions"] == [name] * 3
        assert described["pe_config"]["dynamic_pe_mode"] == "multihead_continuous"
    again = built(config, positions, hf_weights(folder, config, positions, seed=9))
    assert torch.equal(again(tokens), model(tokens))
    for other in (rope, PositionsConfig()):
        message = refused(lambda: hf_weights(folder, config, other, seed=9, is_conversion=True), "in every layer")
        assert f"has {name} in every layer" in message and f"set positions.scheme={name}" in message, message


def check_reading(model, folder, name):
    "What transformers makes of an export: the trainer's logits to the bit, and the same with a cache."
    read = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    with torch.no_grad():
        assert torch.equal(read(tokens).logits, model(tokens))
        assert torch.equal(read(tokens, position_ids=torch.arange(24)[None]).logits, model(tokens))
        first = read(tokens[:1, :20], use_cache=True)
        found = read(tokens[:1, 20:21], past_key_values=first.past_key_values).logits[0, -1]
    cache, expected = Cache(3), model(tokens[:1, :21])[0, -1]
    _cached_logits(model, tokens[:1, :20], cache)
    for of_last in (found, _cached_logits(model, tokens[:1, 20:21], cache)):
        assert torch.allclose(of_last, expected, atol=1e-5), name


def refused(work, said):
    try:
        work()
    except ModelError as error:
        assert said in str(error), error
        return str(error)
    raise AssertionError(f"{said}: expected, but there was no error")


def check_training(name):
    own = {"positions": PositionsConfig(scheme=name), "model__num_layers": 3}
    run = tiny(here, **own, max_steps=2, checkpoint__export_hf=True)
    weights = random_weights(run.model, rope, 0)
    save_hf(here / "backbone", run.model, rope, ((key, weights(key)) for key in parameter_shapes(run.model, rope)))
    run.init_from = str(here / "backbone")
    assert work(run) == 0
    rows = [json.loads(line) for line in (here / "runs" / "tiny" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    for layer in range(3):  # what the position watch reads of a scheme that it has never seen
        assert rows[0][f"positions/layer_{layer:02}/slope_norm"] > 0
        assert rows[0][f"positions/layer_{layer:02}/slope_grad_norm"] > 0
        assert len(rows[0][f"positions/layer_{layer:02}/std"]) == 2
    assert (here / "runs" / "tiny" / "hf" / "schemes_repo_olmo2.py").read_text().endswith("is_learned=True)\\n")


check("slope", 0)
check("linear", 1)
check("sums", 1)
check_training("linear")
print("all checked")
"""


@pytest.mark.system
def test_a_new_scheme_is_one_file_and_one_yaml(tmp_path: Path) -> None:
    copy = tmp_path / "product"
    for package in ROOT.iterdir():
        if (package / "__init__.py").is_file() and package.name != "tests":
            shutil.copytree(package, copy / package.name)  # and what Python has compiled of it, which stays valid
    for name, source in (("slope", SLOPE), ("linear", LINEAR), ("sums", SUMS)):
        (copy / "model" / "positions" / f"{name}.py").write_text(source)
        (copy / "configs" / "positions" / f"{name}.yaml").write_text(f"scheme: {name}\n")
    (copy / "checks.py").write_text(CHECKS)
    # The folder of the script comes before PYTHONPATH: the product is the copy, and only `tests` is of this checkout.
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, "checks.py"], cwd=copy, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.endswith("all checked\n")
    assert (
        ended.stderr.count("backbone: 3 of 3 layers change from rope to linear in every layer, with fresh maps\n") == 1
    )
