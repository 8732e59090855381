"""What an export of a run holds beside its weights: the tokenizer of its data, and a model card."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.errors import UserError
from data.fetch.remote import is_remote
from data.fetch.roots import locate_tokenizer, open_root
from model.accounting import num_parameters
from model.huggingface.card import Training, model_card
from model.huggingface.flavours import Flavour, default_flavour
from model.huggingface.tokenizer import NAME, tokenizer_files, tokens_by_id
from report.metrics import CE_LOSS, EVAL_LOSS, STATISTICS, STEP, TOKENS, positions_metric
from report.run_folder import RunFiles
from train.config import RunConfig
from train.errors import TrainError
from train.huggingface.source import is_run_or_checkpoint, local_folder, open_saved

_BACKBONES = {
    (2048, 16): "allenai/OLMo-2-0425-1B",
    (4096, 32): "allenai/OLMo-2-1124-7B",
    (5120, 40): "allenai/OLMo-2-1124-13B",
    (5120, 64): "allenai/OLMo-2-0325-32B",
}  # by width and layers
_DOLMINO = "allenai/dolmino-mix-1124"
_CURVE_ROWS = 12


def companion_files(
    run: RunConfig, step: int, flavour: Flavour | None = None, tokenizer: Path | None = None
) -> tuple[dict[str, bytes], str | None]:
    """Returns the files by name, and why there is no tokenizer among them, or None.

    `tokenizer` is used instead of that of the data. Raises ModelError if it does not fit the model.
    """
    card = model_card(
        flavour or default_flavour(run.model, run.positions), run.model, run.positions, _training(run, step)
    )
    files = {"README.md": card.encode()}
    if tokenizer is not None:
        return files | tokenizer_files(tokenizer, run.model, longest_context(run)), None
    try:
        return files | tokenizer_files(find_tokenizer(run), run.model, longest_context(run)), None
    except UserError as error:
        return files, str(error)


def longest_context(run: RunConfig) -> int:
    """Returns the longest context that the model is meant for, in tokens."""
    yarn = run.positions.yarn
    return run.sequence_length if yarn is None else round(yarn.factor * yarn.original_max_position)


def find_tokenizer(run: RunConfig) -> Path:
    """Returns the tokenizer.json of a run's data, or else the one beside the weights that it began from.

    Raises DataError if it cannot be fetched, and TrainError if none is named.
    """
    path = _tokenizer_of_data(run) or _tokenizer_of_backbone(run)
    if path is None:
        raise TrainError("neither data.tokenizer nor the folder of init_from names a tokenizer.json: give --tokenizer")
    return path


def other_tokenizer(run: RunConfig) -> str | None:
    """Returns a warning if the data gets other ids than the weights of `init_from` were trained with, else None.

    Says nothing where one of the two files is not known. Raises DataError if that of the data cannot be fetched.
    """
    ours, theirs = _tokenizer_of_data(run), _tokenizer_of_backbone(run)
    if ours is None or theirs is None or ours.read_bytes() == theirs.read_bytes():
        return None
    try:
        found, expected = tokens_by_id(ours), tokens_by_id(theirs)
    except (OSError, ValueError) as error:
        return f"the tokenizers {ours} and {theirs} cannot be compared ({error})"
    num_others = sum(found.get(number) != token for number, token in expected.items())
    if not num_others:
        return None
    return (
        f"WARNING: data.tokenizer {ours} has other tokens than {theirs}, which the weights of init_from were trained "
        f"with: {num_others} of {len(expected)} ids differ, and the loss will be far too high; set data.tokenizer to it"
    )


def _tokenizer_of_data(run: RunConfig) -> Path | None:
    if run.data.tokenizer is None:
        return None
    return locate_tokenizer(run.data.tokenizer, open_root(run.data.root, run.data.cache_dir))


def _tokenizer_of_backbone(run: RunConfig) -> Path | None:
    """Returns the tokenizer.json beside the weights of `init_from`, or that of the data of the run that it is."""
    if run.init_from is None:
        return None
    folder = local_folder(run.init_from)
    for path in (folder / NAME, folder / "hf" / NAME):
        if path.is_file():
            return path
    try:
        return find_tokenizer(open_saved(folder).config) if is_run_or_checkpoint(folder) else None
    except UserError:
        return None


def _training(run: RunConfig, step: int) -> Training:
    files = RunFiles(Path(run.run_root) / run.name)
    rows = [row for row in files.read_metrics() if row[STEP] <= step]
    is_dolmino = any(name in f"{run.data.root} {run.data.file_list}" for name in ("dolmino", "olmo2-stage2"))
    size = (run.model.hidden_size, run.model.num_layers)
    return Training(
        name=run.name,
        step=step,
        base_model=_BACKBONES.get(size) if run.init_from else None,
        datasets=[_DOLMINO] if is_dolmino else [],
        data_licence="Data: Dolmino mix 1124 by Ai2, under the Open Data Commons Attribution License v1.0 (ODC-BY)."
        if is_dolmino
        else None,
        recipe=_recipe(run, step),
        curve=_curve(rows),
        positions=_positions(rows),
    )


def _recipe(run: RunConfig, step: int) -> list[tuple[str, str]]:
    optimizer, schedule, tokens = run.optimizer, run.schedule, run.global_batch_size * run.sequence_length
    return [
        ("parameters", f"{num_parameters(run.model, run.positions):,}"),
        ("began from", _place(run.init_from) if run.init_from else "random weights"),
        ("positions", f"`{run.positions.scheme}`"),
        ("data", f"{_place(run.data.root)}, {run.data.kind.value}, seed {run.data.seed}"),
        ("steps", f"{step:,} of {tokens:,} tokens ({run.global_batch_size} rows of {run.sequence_length:,})"),
        ("optimizer", f"AdamW, betas {tuple(optimizer.betas)}, weight decay {optimizer.weight_decay:g}"),
        (
            "learning rate",
            f"{optimizer.lr:g}, {schedule.warmup_steps:,} steps of warm-up, {schedule.decay_steps:,} of decay",
        ),
        ("seed", str(run.seed)),
    ]


def _place(path: str) -> str:
    """Returns an address or a relative path as it is, and of another path the end: a card is for others to read."""
    return f"`{path if is_remote(path) or not Path(path).is_absolute() else Path(path).name}`"


def _curve(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Returns rows spread over the run, with the last one; those of evaluations where there are several."""
    with_loss = [row for row in rows if CE_LOSS in row]
    evaluated = [row for row in with_loss if EVAL_LOSS in row]
    known = evaluated if len(evaluated) > 1 else with_loss
    stride = max(1, -(-len(known) // _CURVE_ROWS))
    chosen = known[::-1][::stride][::-1]
    return [
        [f"{row[STEP]:,}", f"{row.get(TOKENS, 0):,}", _number(row, CE_LOSS), _number(row, EVAL_LOSS)] for row in chosen
    ]


def _positions(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Returns the means over all heads of the last reading, by name."""

    def means(row: Mapping[str, Any]) -> dict[str, float]:
        named = {name: row.get(positions_metric(name)) for name in STATISTICS}
        return {name: value for name, value in named.items() if isinstance(value, int | float)}

    last = next((found for row in reversed(rows) if (found := means(row))), {})
    return [(name, f"{value:.4g}") for name, value in last.items()]


def _number(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    return f"{value:.4f}" if isinstance(value, int | float) else ""
