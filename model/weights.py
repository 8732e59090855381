"""Initial values of every parameter, by name, from one source of truth.

A `Weights` maps a parameter's name to its float32 value on the CPU. Each value depends on the name and the seed (or a
checkpoint) alone, so every world size, ZeRO stage and order of construction, meta device or not, starts from the same
model. Files are read one tensor at a time.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from model.config import ModelConfig, PositionsConfig
from model.errors import ModelError
from model.transformer import Olmo2

Weights = Callable[[str], Tensor]

_HF_PARTS = {
    "attention": "self_attn",
    "post_attention_norm": "post_attention_layernorm",
    "post_feedforward_norm": "post_feedforward_layernorm",
    "positions.gate": "self_attn.gate_map",
    "positions.content": "self_attn.content_map",
    "positions.final": "self_attn.final_map",
}
_LISTED = 8  # names in an error message before the rest is only counted


def parameter_shapes(config: ModelConfig, positions: PositionsConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter by name, in the model's own order."""
    with torch.device("meta"):
        return {name: tuple(parameter.shape) for name, parameter in Olmo2(config, positions).named_parameters()}


def hf_name(name: str) -> str:
    """Our parameter name -> its key in a Hugging Face checkpoint; RePo's are those of the published one."""
    if not name.startswith("layers."):
        return name if name.startswith("lm_head.") else f"model.{name}"
    _, layer, rest = name.split(".", 2)
    part = rest.removesuffix(".weight")
    owner, _, leaf = part.partition(".")
    part = _HF_PARTS.get(part) or ".".join(filter(None, (_HF_PARTS.get(owner, owner), leaf)))
    return f"model.layers.{layer}.{part}.weight"


def is_position_parameter(name: str) -> bool:
    """True for the parameters of RePo's maps."""
    return ".positions." in name


def random_weights(config: ModelConfig, positions: PositionsConfig, seed: int) -> Weights:
    """Norms 1; every matrix normal(0, initializer_range), cut at initializer_cutoff standard deviations."""
    shapes = parameter_shapes(config, positions)
    bound = config.initializer_cutoff * config.initializer_range

    def weights(name: str) -> Tensor:
        if name.endswith("norm.weight"):
            return torch.ones(shapes[name])
        digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
        value = torch.empty(shapes[name])
        return nn.init.trunc_normal_(value, 0.0, config.initializer_range, -bound, bound, generator)

    return weights


def hf_weights(folder: str | Path, config: ModelConfig, positions: PositionsConfig, seed: int) -> Weights:
    """The weights of a Hugging Face OLMo-2 checkpoint: a folder with config.json and safetensors, sharded or not.

    RePo's maps are read where present, and are the only ones that may be absent: they then come from `random_weights`.
    Raises ModelError, before any tensor is read, that lists every missing and unexpected key, every other shape and
    every disagreement of config.json with `config`; or that says in one line which file is absent or torn.
    """
    folder = Path(folder)
    shapes = parameter_shapes(config, positions)
    found = _files_by_key(folder)
    problems = _config_problems(folder, config) + _key_problems(shapes, found)
    if problems:
        raise ModelError(f"{folder} does not hold the model that is configured: {'; '.join(problems)}")
    fresh = random_weights(config, positions, seed)

    def weights(name: str) -> Tensor:
        key = hf_name(name)
        if key not in found:
            return fresh(name)
        file, _ = found[key]
        with _opened(file) as tensors:
            value: Tensor = tensors.get_tensor(key)
        return value.float()

    return weights


def initialise(model: nn.Module, weights: Weights, device: torch.device | str) -> None:
    """Moves `model` to `device`, materialising it if it is on the meta device, and fills every parameter."""
    if any(parameter.is_meta for parameter in model.parameters()):
        model.to_empty(device=device)
    else:
        model.to(device)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights(name))


def _files_by_key(folder: Path) -> dict[str, tuple[Path, tuple[int, ...]]]:
    """Checkpoint key -> (file that holds it, its shape)."""
    if not folder.is_dir():
        raise ModelError(f"{folder} is not a folder; give one with config.json and safetensors")
    index = folder / "model.safetensors.index.json"
    if index.exists():
        files = sorted({folder / name for name in _weight_map(index).values()})
    else:
        files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{folder} holds no .safetensors file; give a Hugging Face checkpoint folder")
    found: dict[str, tuple[Path, tuple[int, ...]]] = {}
    for file in files:
        with _opened(file) as tensors:
            for key in tensors.keys():  # noqa: SIM118 - a handle, not a dict: it cannot be iterated
                found[key] = (file, tuple(tensors.get_slice(key).get_shape()))
    return found


def _weight_map(index: Path) -> dict[str, str]:
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ModelError(f"{index} has no weight_map; download or write it again")
    return weight_map


def _opened(file: Path) -> safe_open:
    try:
        return safe_open(file, framework="pt")
    except FileNotFoundError:
        raise ModelError(f"{file} is named by the index but absent; download the checkpoint again") from None
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} cannot be read ({error}); download or write it again") from None


def _read_json(file: Path) -> dict:
    try:
        return dict(json.loads(file.read_text()))
    except FileNotFoundError:
        raise ModelError(f"{file} is absent; give a whole Hugging Face checkpoint folder") from None
    except (ValueError, TypeError) as error:  # TypeError: JSON, but no object
        raise ModelError(f"{file} is not valid JSON ({error}); download or write it again") from None


def _key_problems(shapes: dict[str, tuple[int, ...]], found: dict[str, tuple[Path, tuple[int, ...]]]) -> list[str]:
    expected = {hf_name(name): shape for name, shape in shapes.items()}
    optional = {hf_name(name) for name in shapes if is_position_parameter(name)}
    missing = expected.keys() - found.keys() - optional
    other = [
        f"{key} is {list(found[key][1])} and not {list(shape)}"
        for key, shape in expected.items()
        if key in found and found[key][1] != shape
    ]
    groups = (
        ("missing keys", sorted(missing)),
        ("unexpected keys", sorted(found.keys() - expected.keys())),
        ("other shapes", other),
    )
    return [f"{len(items)} {title} ({_listed(items)})" for title, items in groups if items]


def _config_problems(folder: Path, config: ModelConfig) -> list[str]:
    saved = _read_json(folder / "config.json")
    rope = saved.get("rope_parameters") or {}
    saved.setdefault("rope_theta", rope.get("rope_theta"))
    if saved.get("num_key_value_heads") is None:
        saved["num_key_value_heads"] = saved.get("num_attention_heads")
    expected = {
        "model_type": "olmo2",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.key_value_heads,
        "rope_theta": config.rope_theta,
        "rms_norm_eps": config.rms_norm_eps,
        "tie_word_embeddings": False,
    }
    saved.setdefault("tie_word_embeddings", False)
    different = [
        f"{key} {json.dumps(saved.get(key))} and not {json.dumps(value)}"
        for key, value in expected.items()
        if saved.get(key) != value
    ]
    return [f"config.json has {_listed(different)}"] if different else []


def _listed(items: Iterable[str]) -> str:
    items = list(items)
    rest = f", ... {len(items) - _LISTED} more" if len(items) > _LISTED else ""
    return ", ".join(items[:_LISTED]) + rest
