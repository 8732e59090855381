"""For whom an export is: what its config.json says, and which models it can describe. Needs no torch.

`auto` carries the code of its positions (CODE_FILES) and a `model_type` of its own, so that transformers,
vLLM and lm-eval compute them, or refuse the folder. `published` is for the paper's public forks of transformers and
vLLM; plain transformers opens it too, as RoPE and without a warning. `olmo2` is a plain OLMo-2, for every reader.
"""

import shutil
from enum import Enum
from pathlib import Path
from typing import Any

from model.config import ModelConfig, PositionsConfig
from model.errors import require
from model.hf_config import REMOTE_MODEL_TYPE, describe_layers, hf_config
from model.huggingface.scheme_code import check_scheme, scheme_code
from model.positions import BACKBONE, build_schemes, layer_schemes

CODE = Path(__file__).with_name("modeling_repo_olmo2.py")
SCHEMES_CODE = CODE.with_name("schemes_repo_olmo2.py")
CODE_FILES = (CODE, CODE.with_name("arithmetic_repo_olmo2.py"), SCHEMES_CODE)
"""The code that a folder of flavour auto carries: `CODE`, and what it imports."""

_PUBLISHED_DIVISOR = 8  # the forks compute hidden_size // 8 themselves


class Flavour(Enum):
    """Who can open an export."""

    auto = "auto"
    published = "published"
    olmo2 = "olmo2"


def default_flavour(config: ModelConfig, positions: PositionsConfig) -> Flavour:
    """Returns `olmo2` where every layer is RoPE, else `auto`. Raises ModelError if the configs do not fit."""
    names = {scheme.name for scheme in layer_schemes(positions, config.num_layers)}
    return Flavour.olmo2 if names == {BACKBONE} else Flavour.auto


def check_flavour(flavour: Flavour, config: ModelConfig, positions: PositionsConfig) -> None:
    """Raises ModelError, saying what to type instead, if readers of this flavour would compute something else."""
    schemes = layer_schemes(positions, config.num_layers)
    others = sorted({scheme.name for scheme in schemes} - {BACKBONE})
    if flavour is Flavour.auto:
        for scheme in build_schemes(config, positions):
            check_scheme(scheme)
    elif flavour is Flavour.olmo2:
        require(
            not others,
            f"flavour olmo2 is RoPE in every layer, but this model has {describe_layers(schemes)}: use flavour auto",
        )
    else:
        _check_published(config, positions, others, {scheme.published_mode for scheme in schemes if others})


def is_misread(flavour: Flavour, config: ModelConfig, positions: PositionsConfig) -> bool:
    """Returns whether plain transformers takes a folder of this flavour for RoPE though the model is not."""
    return flavour is Flavour.published and default_flavour(config, positions) is not Flavour.olmo2


def describe(
    flavour: Flavour, config: ModelConfig, positions: PositionsConfig, dtype: str, max_position_embeddings: int
) -> dict[str, Any]:
    """Returns the content of config.json; `dtype` as in `float32` or `bfloat16`. Raises as `check_flavour`."""
    check_flavour(flavour, config, positions)
    description = hf_config(config, positions, dtype, max_position_embeddings)
    if flavour is Flavour.published:
        return description
    # Readers before transformers 5 know rope_theta, rope_scaling and torch_dtype, later ones these:
    yarn = description["rope_scaling"] or {"rope_type": "default"}
    description |= {"rope_parameters": yarn | {"rope_theta": config.rope_theta}, "dtype": dtype}
    if flavour is Flavour.olmo2:
        return description
    description.pop("pe_config", None)
    module = CODE.stem
    return description | {
        "model_type": REMOTE_MODEL_TYPE,
        "architectures": ["RepoOlmo2ForCausalLM"],
        "auto_map": {
            "AutoConfig": f"{module}.RepoOlmo2Config",
            "AutoModel": f"{module}.RepoOlmo2Model",
            "AutoModelForCausalLM": f"{module}.RepoOlmo2ForCausalLM",
        },
        "layer_positions": [scheme.name for scheme in layer_schemes(positions, config.num_layers)],
        "repo_width": config.hidden_size // positions.hidden_divisor,
        "position_precision": positions.precision.value,
        "norm_precision": config.norm_precision.value,
    }


def write_code(folder: Path, flavour: Flavour, config: ModelConfig, positions: PositionsConfig) -> None:
    """Copies the code into a folder of flavour auto, and adds schemes that it has not; the others need none.

    Raises OSError, and as `check_flavour`.
    """
    if flavour is not Flavour.auto:
        return
    for code in CODE_FILES:
        shutil.copyfile(code, folder / code.name)
    own = {scheme.name: scheme for scheme in build_schemes(config, positions) if not scheme.in_remote_code}
    if own:
        with (folder / SCHEMES_CODE.name).open("a", encoding="utf-8") as file:
            file.writelines(scheme_code(scheme) for scheme in own.values())


def _check_published(
    config: ModelConfig, positions: PositionsConfig, others: list[str], modes: set[str | None]
) -> None:
    """Raises ModelError for what the published forks cannot compute."""
    problems = []
    if positions.yarn is not None:
        problems.append("YaRN in the file (set positions.yarn=null; the forks get it when they serve)")
    if config.key_value_heads != config.num_heads:
        problems.append(f"{config.key_value_heads} key-value heads for {config.num_heads} query heads")
    if len(others) > 1 or None in modes:
        problems.append(f"layers of {' and '.join(others)} in one model" if len(others) > 1 else f"scheme {others[0]}")
    if positions.hidden_divisor != _PUBLISHED_DIVISOR:
        problems.append(f"positions.hidden_divisor={positions.hidden_divisor} instead of {_PUBLISHED_DIVISOR}")
    require(not problems, f"the published forks cannot open {', '.join(problems)}: use flavour auto")
