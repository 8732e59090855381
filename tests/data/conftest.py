"""One small sample mix for the whole room, and configs that read it."""

import os
from pathlib import Path

import pytest

from data.config import DataConfig, SourceConfig
from data.sample import build_sample

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    build_sample(folder, vocab_size=512, megabytes=1.0, report=lambda message: None)
    return folder


@pytest.fixture
def config(sample: Path) -> DataConfig:
    """Three sources of the sample: many files, two, one."""
    sources = {
        "web": SourceConfig(["web/*.jsonl.zst"], 0.6),
        "encyclopedia": SourceConfig(["encyclopedia/*.jsonl.gz"], 0.3),
        "code": SourceConfig(["code/*"], 0.1),
    }
    return DataConfig(
        root=str(sample),
        sources=sources,
        tokenizer="tokenizer.json",
        num_streams=8,
        files_per_group=3,
        frame_bytes=16384,
    )
