"""Fixtures for all packages: one small sample mix, built once."""

import atexit
import gc
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

from data.tools.sample import build_sample

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two ranks share a laptop's two cores
if shutil.which("nvidia-smi") is None:  # no GPU: Triton, when it is first imported, is to run kernels on the CPU
    os.environ.setdefault("TRITON_INTERPRET", "1")
# An example may take seconds on a busy machine; and what fails in one run fails in the next.
settings.register_profile("same", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
settings.load_profile("same")
# transformers copies code that comes with a folder to a cache, which has one place as long as a process lives.
REMOTE_CODE = tempfile.TemporaryDirectory(prefix="remote-code-")
os.environ["HF_MODULES_CACHE"] = REMOTE_CODE.name


RUNS = ("callbacks", "checkpoint", "huggingface", "test_records.py", "test_trainer.py")
"""What looks at the runs of tests/train/conftest.py."""
LONGEST = ("tests/train/runs", "tests/train", "tests/launch/test_launch.py", "tests/chaos")
"""The groups that take longest, which begin first."""
WHOLE_RUNS = {
    "tests/train": {"stages", "crashes", "routes", "splits", "exports", "refusals"},
    "tests/report": {"real_run"},
}
"""The fixtures that train whole runs, by package: what looks at them is of the system suite."""


def group_of(nodeid: str) -> str:
    """Returns the group of a test: those that share fixtures, which one process makes once."""
    path = nodeid.split("::")[0].split("/")
    if path[1] == "train":
        return "tests/train/runs" if path[2] in RUNS else "tests/train"
    return "/".join(path if path[1] == "launch" else path[:2])


class OneGroupAtATime(LoadScopeScheduling):
    """Gives all tests of a group to one process of pytest-xdist."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneGroupAtATime:
    """Returns how tests are shared out."""
    return OneGroupAtATime(config, log)


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what looks at whole runs, and puts the groups first that take longest."""
    for item in items:
        runs = WHOLE_RUNS.get("/".join(item.nodeid.split("/")[:2]), set())
        if isinstance(item, pytest.Function) and not runs.isdisjoint(item.fixturenames):
            item.add_marker(pytest.mark.system)
    order = {group: number for number, group in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(group_of(item.nodeid), len(order)))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Turns garbage collections off while tests are collected, and takes all that is imported out of later ones.

    So forked data workers need not copy it. The controller of pytest-xdist, which collects nothing, comes here, too.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


atexit.register(gc.unfreeze)  # the process ends clean: Triton's library reports what is left of it


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sample mix of a megabyte, with a tokenizer of 512 tokens."""
    folder = tmp_path_factory.mktemp("sample")
    build_sample(folder, vocab_size=512, megabytes=1.0, report=lambda message: None)
    return folder
