"""Parameter groups: what decays, and what has a rate of its own."""

import sys
from pathlib import Path

import pytest
import torch

from model.config import PositionsConfig
from model.transformer import Olmo2
from model.weights import initialise
from tests.train.tiny import tiny
from train.engine.determinism import set_determinism
from train.optimizer import AdamW, build_optimizer, group_name, parameter_groups
from train.optimizer_config import OptimizerConfig


def built(scheme: str = "repo") -> Olmo2:
    with torch.device("meta"):
        return Olmo2(tiny(Path()).model, PositionsConfig(scheme=scheme))


def decays(config: OptimizerConfig) -> dict[str, float]:
    model = built()
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model.named_parameters(), config)
    return {names[parameter]: group["weight_decay"] for group in groups for parameter in group["params"]}


def test_as_published_everything_decays_but_the_input_embedding() -> None:
    assert {name for name, decay in decays(OptimizerConfig()).items() if decay != 0.1} == {"embed_tokens.weight"}


@pytest.mark.parametrize("scheme", ["repo", "rope"])
def test_every_parameter_is_in_exactly_one_group(scheme: str) -> None:
    model = built(scheme)
    members = [p for group in parameter_groups(model.named_parameters(), OptimizerConfig()) for p in group["params"]]
    assert len(members) == len(set(members)) == len(list(model.parameters()))


def test_repo_is_a_group_of_its_own_and_absent_without_repo() -> None:
    [group] = [g for g in parameter_groups(built().named_parameters(), OptimizerConfig()) if g["name"] == "repo"]
    assert len(group["params"]) == 3 * 2
    groups = parameter_groups(built("rope").named_parameters(), OptimizerConfig())
    assert [group["name"] for group in groups] == ["decay", "no_decay"]


def test_norms_and_embeddings_decay_as_the_config_says() -> None:
    without_norms = decays(OptimizerConfig(decay_norms=False, decay_embeddings=True))
    undecayed = {name for name, decay in without_norms.items() if decay == 0}
    assert undecayed == {name for name in without_norms if "norm" in name}
    assert len(undecayed) == 4 * 2 + 1


def test_the_head_is_no_embedding_and_repos_maps_are_no_norms() -> None:
    config = OptimizerConfig(decay_norms=False)
    assert group_name("lm_head.weight", config) == "decay"
    assert group_name("layers.5.positions.gate.weight", config) == "repo"
    assert group_name("norm.weight", config) == "no_decay"


def test_adamw_has_the_betas_and_epsilon_of_the_config() -> None:
    optimizer = build_optimizer(built().named_parameters(), OptimizerConfig(betas=[0.8, 0.99], eps=1e-7), fused=False)
    assert all(group["betas"] == (0.8, 0.99) and group["eps"] == 1e-7 for group in optimizer.param_groups)


def test_an_eager_run_does_not_load_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch._dynamo", "torch._inductor", "torch.fx.experimental.symbolic_shapes"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it is an error
    set_determinism(False)
    model = built()
    initialise(model, lambda name: torch.zeros(()), "cpu")
    optimizer = build_optimizer(model.named_parameters(), OptimizerConfig(), fused=True)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    optimizer.load_state_dict(optimizer.state_dict())
    assert all((parameter < 0).all() for parameter in model.parameters())
    # A wrapper that was called before does not import it again.
    wrapped = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
    assert not any(hasattr(vars(AdamW)[name], "__wrapped__") for name in wrapped)
