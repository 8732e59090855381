"""The tasks, by name. A new task is a file with `build`, listed here."""

import difflib
from collections.abc import Collection, Sequence

from evaluate.config import ProbeConfig
from evaluate.errors import EvaluateError
from evaluate.tasks import (
    common_words,
    facts,
    frequent_words,
    graphs,
    key_value,
    lists,
    needles,
    tables,
    variable_tracking,
)
from evaluate.tasks.task import Task

FILES = (needles, variable_tracking, common_words, frequent_words, lists, key_value, facts, tables, graphs)


def build_tasks(config: ProbeConfig) -> dict[str, Task]:
    """Returns the tasks that a config names, or all, in its order. Raises EvaluateError for an unknown name."""
    known = _all_tasks(config)
    _check(config.task, known, "task")
    return {name: known[name] for name in config.task or known}


def check_names(names: Sequence[str], key: str) -> None:
    """Raises EvaluateError, naming the key, if there is a name of no task."""
    _check(names, _all_tasks(ProbeConfig()), key)


def _all_tasks(config: ProbeConfig) -> dict[str, Task]:
    return {name: task for file in FILES for name, task in file.build(config).items()}


def _check(names: Sequence[str], known: Collection[str], key: str) -> None:
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"tasks are: {', '.join(known)}"
            raise EvaluateError(f"{key}={name}: there is no such task; {hint}")
