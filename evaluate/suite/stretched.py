"""An export with YaRN in its config.json. All other files are links, so that weights are on disk once."""

import json
from pathlib import Path
from typing import Any

import xxhash

from common.files import write_text_whole
from evaluate.errors import EvaluateError

CONFIG = "config.json"
EXPORT = "`python -m model export RUN FOLDER`"
TEXTS = {".md"}  # of an export, which no result depends on


def read_config(folder: Path) -> dict[str, Any]:
    """Returns the config.json of an export. Raises EvaluateError if there is none."""
    try:
        found = json.loads((folder / CONFIG).read_text())
    except FileNotFoundError:
        raise EvaluateError(_absent(folder)) from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise EvaluateError(f"{folder / CONFIG} cannot be read ({why}): {EXPORT} writes a new one") from error
    if not isinstance(found, dict) or not isinstance(found.get("max_position_embeddings"), int):
        raise EvaluateError(f"{folder / CONFIG} has no max_position_embeddings: it is not known how long texts may be")
    return found


def _absent(folder: Path) -> str:
    if (folder / "hf" / CONFIG).is_file():
        return f"{folder} is a run: give {folder / 'hf'}"
    if folder.is_dir():
        return f"{folder} is no Hugging Face folder, as it has no {CONFIG}: {EXPORT} writes one"
    return f"{folder} is absent: give a Hugging Face folder; {EXPORT} writes one"


def with_yarn(config: dict[str, Any], factor: float) -> dict[str, Any]:
    """Returns a config.json with YaRN, for readers of old and of new keys. Raises EvaluateError if it has YaRN."""
    for key in ("rope_scaling", "rope_parameters"):
        rope = config.get(key) or {}
        if rope.get("rope_type", rope.get("type")) not in (None, "default"):
            raise EvaluateError(f"this export has {key} {rope} already: give one without, or --length up to its own")
    length = config["max_position_embeddings"]
    yarn = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": length}
    parameters = (config.get("rope_parameters") or {"rope_theta": config.get("rope_theta")}) | yarn
    stretched = {"max_position_embeddings": round(factor * length), "rope_scaling": yarn, "rope_parameters": parameters}
    return config | stretched


def stretch(folder: Path, factor: float, copy: Path) -> None:
    """Makes `copy` a folder of the export with YaRN. Raises EvaluateError and OSError."""
    text = json.dumps(with_yarn(read_config(folder), factor), indent=2) + "\n"
    copy.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        link = copy / path.name
        if path.is_file() and path.name != CONFIG:
            link.unlink(missing_ok=True)
            link.symlink_to(path.resolve())
    write_text_whole(copy / CONFIG, text, durable=False)


def digest_of(folder: Path) -> str:
    """Returns what tells an export from others: a hash of its files."""
    found = xxhash.xxh3_128()
    for path in sorted(each for each in folder.iterdir() if each.is_file() and each.suffix not in TEXTS):
        found.update(path.name.encode())
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                found.update(chunk)
    return found.hexdigest()
