"""No module imports itself by way of others, what a launcher loads needs no torch, and a trainer no compiler."""

import subprocess
import sys
from graphlib import TopologicalSorter

import grimp
import pytest

PACKAGES = ("benchmarks", "common", "configs", "data", "evaluate", "launch", "model", "report", "train")
WITHOUT_TORCH = (
    "launch.__main__",
    "train.config",
    "train.compose.app",
    "report.__main__",
    "evaluate.__main__",
    "model.accounting",
)


def test_there_are_no_import_cycles() -> None:
    graph = grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True, cache_dir=None)
    sorter = TopologicalSorter({module: graph.find_modules_directly_imported_by(module) for module in graph.modules})
    assert len(list(sorter.static_order())) == len(graph.modules)  # raises CycleError, which names the cycle


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_what_a_launcher_loads_needs_no_torch(module: str) -> None:
    heavy = "{'torch', 'deepspeed', 'wandb', 'transformers', 'matplotlib'}"
    code = f"import sys, {module}; print(sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_trainer_starts_without_the_compiler_of_torch() -> None:
    code = "import sys, train.__main__; print('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
