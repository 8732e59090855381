"""The recipes are the published ones.

Published values: SakanaAI/repo, OLMo2-1B-stage2-seed42-SEXMH-L5.yaml and the trainer that reads it; for 7B, the
backbone's own OLMo2-7B-stage2-seed42.yaml. They are written out here, so that a changed default is a failing test.
"""

from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from data.config import DataConfig
from model.accounting import num_parameters
from model.config import PositionsConfig, YarnConfig
from model.positions import layer_schemes
from train.compose.app import CONFIG_FOLDER, to_run_config
from train.config import RunConfig
from train.schedule import learning_rate

EXPERIMENTS = sorted(path.stem for path in (CONFIG_FOLDER / "experiment").glob("*.yaml"))
ROPE, NOPE, REPO = "rope", "nope", "repo"

PUBLISHED_1B = {
    "seed": 42,
    "sequence_length": 4096,
    "global_batch_size": 512,
    "micro_batch_size": 4,
    "max_steps": 23852,
    "mask_documents": False,
    "model.vocab_size": 100352,
    "model.hidden_size": 2048,
    "model.intermediate_size": 8192,
    "model.num_layers": 16,
    "model.num_heads": 16,
    "model.num_kv_heads": None,
    "model.rope_theta": 500000.0,
    "model.rms_norm_eps": 1e-6,
    "model.initializer_range": 0.02,
    "model.initializer_cutoff": 3.0,
    "model.eos_token_id": 100257,
    "model.pad_token_id": 100277,
    "positions.scheme": "repo",
    "positions.hidden_divisor": 8,
    "positions.yarn": None,
    "data.kind": "tokens",
    "data.seed": 42,
    "data.eos_token_id": 100257,
    "data.repetition_filter.enabled": True,
    "data.repetition_filter.min_period": 1,
    "data.repetition_filter.max_period": 13,
    "data.repetition_filter.max_count": 32,
    "loss.z_loss_weight": 1e-4,
    "optimizer.lr": 7.4487e-5,
    "optimizer.betas": [0.9, 0.95],
    "optimizer.eps": 1e-8,
    "optimizer.weight_decay": 0.1,
    "optimizer.decay_embeddings": False,
    "optimizer.decay_norms": True,
    "optimizer.max_grad_norm": 1.0,
    "optimizer.repo_lr_multiplier": 1.0,
    "optimizer.repo_warmup_steps": 0,
    "schedule.warmup_steps": 0,
    "schedule.decay_steps": 23842,
    "schedule.final_fraction": 0.0,
    "engine.precision": "bf16",
    "engine.zero_stage": 1,  # FSDP there: the same sums, sent in every micro-batch
    "checkpoint.interval": 1000,
    "checkpoint.keep": 3,
}
PUBLISHED_7B = PUBLISHED_1B | {
    "global_batch_size": 1024,
    "micro_batch_size": 2,
    "max_steps": 11931,
    "model.hidden_size": 4096,
    "model.intermediate_size": 11008,
    "model.num_layers": 32,
    "model.num_heads": 32,
    "optimizer.lr": 6.1499e-5,
    "schedule.decay_steps": 11921,
}
BASELINES = {
    "rope-1b-50b": (ROPE,) * 16,
    "nope-1b-50b": (NOPE,) * 16,
    "r2n1-1b-50b": tuple(NOPE if layer in (2, 5, 8, 11, 14) else ROPE for layer in range(16)),
    "n2r1-1b-50b": tuple(ROPE if layer in (2, 5, 8, 11, 14) else NOPE for layer in range(16)),
}


def composed(experiment: str, *overrides: str) -> RunConfig:
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        return to_run_config(compose("config", [f"experiment={experiment}", *overrides]))


def names(positions: PositionsConfig, num_layers: int) -> tuple[str, ...]:
    return tuple(scheme.name for scheme in layer_schemes(positions, num_layers))


def flat(plain: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in plain.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return values


@pytest.mark.parametrize(("experiment", "published"), [("repo-1b-50b", PUBLISHED_1B), ("repo-7b-50b", PUBLISHED_7B)])
def test_the_recipe_is_the_published_one(experiment: str, published: dict[str, Any]) -> None:
    ours = flat(composed(experiment).as_plain())
    assert {key: ours[key] for key in published} == published


def test_the_defaults_of_the_dataclasses_are_the_published_recipe() -> None:
    defaults = flat(RunConfig(name="x", data=DataConfig()).as_plain())
    own = ("data.kind", "data.eos_token_id", "engine.zero_stage")  # there the default is the general case
    expected = {key: value for key, value in PUBLISHED_1B.items() if key not in own}
    assert {key: defaults[key] for key in expected} == expected


@pytest.mark.parametrize(("experiment", "kinds"), BASELINES.items())
def test_a_baseline_differs_in_its_positions_only(experiment: str, kinds: tuple[str, ...]) -> None:
    baseline, repo = composed(experiment), composed("repo-1b-50b")
    assert names(baseline.positions, 16) == kinds
    ours, theirs = flat(baseline.as_plain()), flat(repo.as_plain())
    different = {key for key in ours if ours[key] != theirs[key]}
    assert different == {"name", "positions.scheme"}


def test_yarn_can_be_added_and_set() -> None:
    yarn = composed("repo-1b-50b", "+positions/yarn=default", "positions.yarn.factor=2").positions.yarn
    assert yarn == YarnConfig(factor=2.0, original_max_position=4096, beta_fast=32.0, beta_slow=1.0)


def test_repo_sits_where_the_paper_puts_it() -> None:
    for experiment, start, num_layers, extra in (
        ("repo-1b-50b", 5, 16, 11_579_392),
        ("repo-7b-50b", 10, 32, 92_635_136),
    ):
        config = composed(experiment)
        assert names(config.positions, num_layers) == (ROPE,) * start + (REPO,) * (num_layers - start)
        rope = composed("rope-1b-50b").positions
        assert num_parameters(config.model, config.positions) - num_parameters(config.model, rope) == extra


def test_the_run_sees_50_billion_tokens_and_ends_at_a_rate_of_zero() -> None:
    for experiment in ("repo-1b-50b", "repo-7b-50b"):
        config = composed(experiment)
        tokens_per_step = config.global_batch_size * config.sequence_length
        assert config.schedule.decay_steps == -(-50_000_000_000 // tokens_per_step)
        assert config.max_steps * tokens_per_step > 50e9
        assert learning_rate(config.max_steps, config.optimizer.lr, config.schedule) == 0.0


def test_the_list_names_576_files_of_stage_2() -> None:
    files = (CONFIG_FOLDER / "data" / "olmo2-stage2-files.txt").read_text().split()
    assert len(files) == len(set(files)) == 576
    assert all(file.startswith("preprocessed/") and file.endswith(".npy") for file in files)
    config = composed("repo-1b-50b")
    assert (CONFIG_FOLDER.parent / str(config.data.file_list)).read_text().split() == files


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_and_is_named_like_its_file(experiment: str) -> None:
    assert composed(experiment).name == experiment
