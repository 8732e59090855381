"""Fixtures for all packages: one small sample mix, built once."""

import gc
import os
from pathlib import Path

import pytest

from data.tools.sample import build_sample

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two ranks share a laptop's two cores


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Makes one group of each package's tests for pytest-xdist, as they share fixtures; the longest comes first."""
    for item in items:
        package = item.path.relative_to(Path(__file__).parent).parts[0]
        item.add_marker(pytest.mark.xdist_group(package))
    items.sort(key=lambda item: "tests/train/" not in item.nodeid)


def pytest_collection_finish() -> None:
    """Takes all that is imported out of garbage collections, so that forked data workers need not copy it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sample mix of a megabyte, with a tokenizer of 512 tokens."""
    folder = tmp_path_factory.mktemp("sample")
    build_sample(folder, vocab_size=512, megabytes=1.0, report=lambda message: None)
    return folder
