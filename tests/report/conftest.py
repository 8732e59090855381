"""One browser, and one short real run that was stopped and resumed, for all tests of the report."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from report.run_folder import RunFiles
from tests.distributed import run_ranks
from tests.report.browser import Browser, open_browser
from tests.train.probe import start
from tests.train.tiny import tiny, write_tokenizer, write_tokens
from train.distributed import Ranks

NUM_STEPS, STOP_STEP = 8, 3


def stop_and_resume(ranks: Ranks, root: Path) -> None:
    """A run that a signal ends after STOP_STEP, and the same command again."""
    probing = {"position_watch__probe_tokenizer": str(root / "tokenizer.json"), "position_watch__probe_interval": 2}
    config = tiny(root, name="stopped", micro_batch_size=4, model__num_layers=3, max_steps=NUM_STEPS, **probing)
    start(config, ranks, stop_rank=0, stop_step=STOP_STEP)
    start(config, ranks)


@pytest.fixture(scope="session")
def real_run(tmp_path_factory: pytest.TempPathFactory) -> RunFiles:
    root = tmp_path_factory.mktemp("report")
    write_tokens(root / "tokens")
    write_tokenizer(root / "tokenizer.json")
    run_ranks(stop_and_resume, 1, root)
    return RunFiles(root / "runs" / "stopped")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser
