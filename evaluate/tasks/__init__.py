"""The tasks, by name. A new task is a file with `build`, listed here."""

import difflib

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
    known = {name: task for file in FILES for name, task in file.build(config).items()}
    for name in config.task:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"tasks are: {', '.join(known)}"
            raise EvaluateError(f"task={name}: there is no such task; {hint}")
    return {name: known[name] for name in config.task or known}
