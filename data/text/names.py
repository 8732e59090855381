"""Which files hold text, by their names."""

import re
from pathlib import Path, PurePosixPath

TABLE_BUILDERS = {".parquet": "parquet", ".arrow": "arrow"}
TEXT_NAME = re.compile(r"\.(jsonl?(\.(zst|gz))?|parquet|arrow)$")
PLAIN_NAME = re.compile(r"\.txt(\.(zst|gz))?$")
DATA_SUFFIX = re.compile(f"{TEXT_NAME.pattern}|{PLAIN_NAME.pattern}")
OTHER_JSON = {"manifest.json", "tokenizer.json", "tokenizer_config.json"}
SAVED_SPLITS = "dataset_dict.json"
COMPANIONS = {"dataset_info.json", "state.json", SAVED_SPLITS}
"""What `save_to_disk` of `datasets` puts beside its tables."""


def find_text_names(folder: Path) -> list[str]:
    """Returns the names, relative to `folder`, of the text files at any depth below it, in order; no hidden ones.

    Those of plain text (.txt) are left out if there are others, or token files: they may be lists or notes beside them.
    """
    paths = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    names = [
        path.as_posix()
        for path in paths
        if path.name not in OTHER_JSON and not any(part.startswith(".") for part in path.parts)
    ]
    found = [name for name in names if TEXT_NAME.search(name)]
    if any(name.endswith(".arrow") for name in found):
        found = [name for name in found if not is_companion(name)]
    if not found and not any(name.endswith(".npy") for name in names):
        found = [name for name in names if PLAIN_NAME.search(name)]
    return sorted(found)


def is_companion(name: str) -> bool:
    """Returns whether `save_to_disk` gives this name to a file that holds no text."""
    return PurePosixPath(name).name in COMPANIONS
