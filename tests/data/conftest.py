"""A config that reads the sample mix of tests/conftest.py, and one with documents held out of training."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from data import tokenizer
from data.config import DataConfig, SourceConfig, ValidationConfig
from data.fetch import retry
from data.fetch.background import Background
from tests.data.reading import end_threads
from tests.data.validating import NUMBERS, SHARE, write_texts


@pytest.fixture(autouse=True)
def background_ends(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ends the work of threads with its test: it would log, and ask for files, within the next one."""
    ended: list[bool] = []
    used: list[Background] = []
    submit = Background.submit

    def submit_unless_ended(background: Background, job: Callable[[], object]) -> None:
        used.append(background)
        submit(background, lambda: ended or job())

    monkeypatch.setattr(Background, "submit", submit_unless_ended)
    yield
    ended.append(True)
    for background in {id(background): background for background in used}.values():
        idle = threading.Event()
        submit(background, idle.set)
        assert idle.wait(600)
    end_threads("rows ahead")
    end_threads("one of many")


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries again at once what a server failed at."""
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.001)


@pytest.fixture(scope="session", autouse=True)
def fast_encoder_at_once() -> Iterator[None]:
    """Loads the fast encoder for the first text: the streams of tests end before it would be loaded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer, "TOKENIZERS_FIRST", 0)
        yield


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


@pytest.fixture(scope="module")
def mix(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """Two sources that share documents and hold many twice; a quarter of all is held out."""
    folder = tmp_path_factory.mktemp("mix")
    for source, numbers in NUMBERS.items():
        for part in range(3):
            write_texts(folder / f"{source}/{part}.jsonl", numbers[part::3])
        write_texts(folder / f"{source}/copies.jsonl", numbers[::2])
    write_texts(folder / "own/0.jsonl", range(10_000, 10_050))
    (folder / "tokenizer.json").write_bytes((sample / "tokenizer.json").read_bytes())
    return DataConfig(
        root=str(folder),
        sources={name: SourceConfig([f"{name}/*"], 0.5) for name in NUMBERS},
        tokenizer="tokenizer.json",
        num_streams=8,
        frame_bytes=1024,
        files_per_group=2,
        validation=ValidationConfig(share=SHARE, rows=20),
    )
