"""vLLM, without a plugin, gives an export's own tokens: `make test-vllm`, whose table is in benchmarks/results."""

import json
import os
import subprocess
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model.config import PositionsConfig, YarnConfig
from model.export import save_hf
from model.generate import next_tokens
from model.transformer import Olmo2
from tests.model.small import ROPE, built, small

pytestmark = pytest.mark.vllm
ROOT = Path(__file__).parents[3]
VLLM = ROOT / ".venv-vllm" / "bin" / "python"

CONFIG = small(vocab_size=256, hidden_size=128, num_kv_heads=2, initializer_range=0.2)  # heads of 32: 16 are refused
LAYERS = ["rope", "repo", "nope"]
MODELS = {
    "RoPE": ROPE,
    "NoPE": PositionsConfig("nope"),
    "mixed": PositionsConfig("list", layers=LAYERS),
    "YaRN": PositionsConfig("list", layers=LAYERS, yarn=YarnConfig(factor=4.0, original_max_position=16)),
}
PROMPTS = [torch.randint(2, 256, (length,), generator=torch.Generator().manual_seed(length)) for length in (3, 11, 29)]
NUM_TOKENS, CONTEXT = 24, 64
EAGER = {"enforce_eager": True}
IN_PIECES = {"max_num_batched_tokens": 8, "max_num_seqs": 4}  # prompts are read in parts, several in one row
AT_SERVING = {
    "hf_overrides": {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": CONFIG.rope_theta,
            "factor": 4.0,
            "original_max_position_embeddings": 16,
        }
    }
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An export of each model."""
    root = tmp_path_factory.mktemp("exports")
    for name, positions in MODELS.items():
        parameters = model(name).named_parameters()
        save_hf(root / name, CONFIG, positions, parameters, max_position_embeddings=CONTEXT)
    return {name: root / name for name in MODELS}


@pytest.fixture(scope="module", autouse=True)
def head() -> None:
    """The head of the table that the tests print."""
    print("\n| model | vLLM | prompts with equal tokens | largest difference of a log-probability |\n|---|---|---|---|")


def model(name: str) -> Olmo2:
    """Returns the model in training form."""
    return built(CONFIG, MODELS[name])


def greedy(name: str) -> list[list[int]]:
    """Returns our own tokens after each prompt."""
    unused = torch.Generator()
    return [
        list(islice(next_tokens(model(name), prompt, temperature=0.0, generator=unused), NUM_TOKENS))
        for prompt in PROMPTS
    ]


def logprobs(ours: Olmo2) -> list[Tensor]:
    """Returns the log-probability of each token of each prompt but the first."""
    found = []
    for prompt in PROMPTS:
        with torch.no_grad():
            logits = ours(prompt[None])[0, :-1].float()
        found.append(logits.log_softmax(-1).gather(1, prompt[1:, None])[:, 0])
    return found


def in_vllm(folder: Path, **settings: Any) -> dict[str, Any]:
    """Returns what vLLM answers, with its log-probabilities as tensors."""
    assert VLLM.is_file(), "make test-vllm builds .venv-vllm"
    asked = {
        "settings": {"model": str(folder), "dtype": "float32", "max_model_len": CONTEXT} | settings,
        "prompts": [prompt.tolist() for prompt in PROMPTS],
        "num_tokens": NUM_TOKENS,
    }
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder.parent / "hub")}
    script = Path(__file__).with_name("vllm_tokens.py")
    ended = subprocess.run(
        [str(VLLM), str(script)], input=json.dumps(asked), env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr[-6000:]
    answer: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return answer | {"logprobs": [torch.tensor(values) for values in answer["logprobs"]]}


def furthest(found: list[Tensor], expected: list[Tensor]) -> float:
    """Returns the largest difference."""
    return max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True))


def test_positions_and_yarn_are_seen_in_the_tokens() -> None:
    tokens = [greedy(name) for name in MODELS]
    assert len({json.dumps(found) for found in tokens}) == len(MODELS)
    assert all(len(set(found)) > 5 for found in tokens[2])


@pytest.mark.parametrize(
    ("name", "expected", "settings"),
    [
        ("RoPE", "RoPE", EAGER),
        ("NoPE", "NoPE", EAGER),
        ("mixed", "mixed", EAGER),
        ("mixed", "mixed", EAGER | IN_PIECES),
        ("mixed", "mixed", {}),
        ("YaRN", "YaRN", EAGER),
        ("YaRN", "YaRN", {}),
        ("mixed", "YaRN", EAGER | AT_SERVING),
    ],
    ids=["rope", "nope", "mixed", "in-pieces", "compiled", "yarn", "yarn-compiled", "yarn-at-serving"],
)
def test_greedy_tokens_are_ours(
    folders: dict[str, Path], name: str, expected: str, settings: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    answer = in_vllm(folders[name], **settings)
    tokens, difference = greedy(expected), furthest(answer["logprobs"], logprobs(model(expected)))
    equal = sum(a == b for a, b in zip(answer["tokens"], tokens, strict=True))
    print(f"| {expected} | {request.node.callspec.id}, float32 | {equal} of {len(tokens)} | {difference:.1e} |")
    assert answer["tokens"] == tokens and difference < 1e-4


def test_bfloat16_is_as_near_as_ours(folders: dict[str, Path]) -> None:
    exact, rounded = logprobs(model("mixed")), logprobs(model("mixed").bfloat16())
    answer = in_vllm(folders["mixed"], dtype="bfloat16", **EAGER)
    difference, ours = furthest(answer["logprobs"], exact), furthest(rounded, exact)
    print(f"| mixed | bfloat16 | | {difference:.1e} (ours in bfloat16: {ours:.1e}) |\n{answer['versions']}")
    assert difference < 2 * ours
