"""The model card of an export, README.md: what the weights are, how they were made, and how to open the folder."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from model.config import ModelConfig, PositionsConfig
from model.hf_config import describe_layers
from model.huggingface.flavours import Flavour, is_misread
from model.positions import layer_schemes

_OPENED_BY = {
    Flavour.auto: """This folder carries the code of its positions. transformers 5.16 to 5.23, and vLLM and lm-eval on
top of it, open it with `trust_remote_code=True`, and refuse it without.

    from transformers import AutoModelForCausalLM, AutoTokenizer
    model = AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(FOLDER, trust_remote_code=True)
    output = model(**tokenizer("Some text", return_tensors="pt"), output_positions=True)

`output.positions` then holds z [batch, token, key-value head] of each RePo layer; `output.position_layers` names them.

    vllm serve FOLDER --trust-remote-code --dtype bfloat16
    lm_eval --model hf --model_args pretrained=FOLDER,trust_remote_code=True,dtype=bfloat16 --tasks TASKS
""",
    Flavour.published: """**Only the public forks of the RePo paper open this folder as what it is.** Plain transformers
reads it as RoPE in every layer, without a warning, and its output is then wrong.
""",
    Flavour.olmo2: """A plain OLMo-2: transformers, vLLM and lm-eval open it as they are.

    from transformers import AutoModelForCausalLM, AutoTokenizer
    model = AutoModelForCausalLM.from_pretrained(FOLDER)
""",
}

_LEARNED = " RePo gives each token a learned, real-valued position per head (arXiv 2512.14391)."


@dataclass(frozen=True)
class Training:
    """What is known about how weights were made; what is empty is left out of the card."""

    name: str
    """Of the run."""
    step: int
    """Updates done."""
    base_model: str | None = None
    """Hub id of the backbone."""
    datasets: Sequence[str] = ()
    """Hub ids of the data."""
    data_licence: str | None = None
    """Licence of the data, as a sentence."""
    recipe: Sequence[tuple[str, str]] = ()
    """Settings and their values."""
    curve: Sequence[Sequence[str]] = ()
    """Rows of step, tokens, loss, validation loss."""
    positions: Sequence[tuple[str, str]] = field(default=())
    """Statistics of the positions, averaged over heads, and their values."""


def model_card(flavour: Flavour, config: ModelConfig, positions: PositionsConfig, training: Training) -> str:
    """Returns the card as Markdown with its header. Raises ModelError if the configs do not fit."""
    schemes = layer_schemes(positions, config.num_layers)
    learned = any(scheme.is_learned for scheme in schemes)
    opened_by = flavour if flavour is not Flavour.published or is_misread(flavour, config, positions) else Flavour.olmo2
    yarn = "" if positions.yarn is None else f", YaRN with factor {positions.yarn.factor:g}"
    parts = [
        _header(training, learned),
        f"# {training.name}, step {training.step:,}\n",
        f"OLMo-2 ({config.num_layers} layers, width {config.hidden_size}) with {describe_layers(schemes)}{yarn}."
        + (_LEARNED if learned else "")
        + "\n",
        "## Opening it\n",
        _OPENED_BY[opened_by],
    ]
    if training.recipe:
        parts += ["## Training\n", _table(("setting", "value"), training.recipe)]
    if training.curve:
        parts += ["## Loss\n", _table(("step", "tokens", "loss", "validation loss"), training.curve)]
    if training.positions:
        title = "## Positions\n\nMeans over the heads of all learned layers at the last reading.\n"
        parts += [title, _table(("statistic", "value"), training.positions)]
    licence = training.data_licence or ""
    parts += ["## Licence\n", f"Weights: Apache-2.0. {licence}".strip() + "\n"]
    return "\n".join(parts)


def _header(training: Training, learned: bool) -> str:
    """Returns the YAML that the hub reads. JSON strings are YAML strings."""
    lines = ["license: apache-2.0", "library_name: transformers", "pipeline_tag: text-generation", "language: en"]
    if training.base_model:
        lines += [f"base_model: {json.dumps(training.base_model)}", "base_model_relation: finetune"]
    if training.datasets:
        lines.append(f"datasets: {json.dumps(list(training.datasets))}")
    tags = ["olmo2", *(["repo", "context-re-positioning"] if learned else [])]
    lines.append(f"tags: {json.dumps(tags)}")
    return "\n".join(["---", *lines, "---\n"])


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines) + "\n"
