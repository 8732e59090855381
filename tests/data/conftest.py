"""A config that reads the sample mix of tests/conftest.py."""

from pathlib import Path

import pytest

from data.config import DataConfig, SourceConfig


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
