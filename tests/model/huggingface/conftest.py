"""Code that comes with a folder is copied into a cache: one for these tests alone."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import dynamic_module_utils


@pytest.fixture(scope="session", autouse=True)
def modules_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that transformers copies remote code to."""
    folder = tmp_path_factory.mktemp("modules")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(folder))
        yield folder
