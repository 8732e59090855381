"""A password in `data.root` is used, and is in nothing that a run prints or writes."""

import contextlib
import io
import sys
from pathlib import Path

import pytest

from data.fetch.credentials import VARIABLE
from tests.data.fetch.server import serving
from tests.distributed import run_ranks
from tests.train.probe import Outcome, Probe
from tests.train.tiny import tiny, write_tokens
from train.__main__ import train
from train.callbacks.config import WandbMode
from train.changes import changed_keys
from train.compose.app import hydra_app, load_run_config, save_run_config
from train.config import RunConfig
from train.distributed import Ranks
from train.run_folder import RunFolder

PASSWORD = "s3cret"


def start_twice(ranks: Ranks, given: Path) -> str:
    """Runs a config file, and again with more steps; returns what is printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        for max_steps in (1, 2):
            config = load_run_config(given)
            config.max_steps = max_steps
            outcome = Outcome()
            train(config, ranks, [Probe(outcome, stop_rank=None, stop_step=0, crash_step=0)])
            assert "waiting for data" not in outcome.learned  # the next file may be larger
    return printed.getvalue()


@pytest.mark.system
def test_a_password_in_the_address_of_the_data_is_nowhere_afterwards(tmp_path: Path) -> None:
    write_tokens(tmp_path / "served")
    given = tmp_path / "given.yaml"
    with serving(tmp_path / "served") as server:
        server.login = f"me:{PASSWORD}"
        address = server.url.replace("://", f"://me:{PASSWORD}@")
        config = tiny(tmp_path, data__root=address, data__file_list=str(tmp_path / "served/files.txt"))
        config.wandb.mode, config.data.cache_dir = WandbMode.offline, str(tmp_path / "cache")
        save_run_config(config, given)
        [printed] = run_ranks(start_twice, 1, given)
    assert "continues from step 1 with changes" in printed and PASSWORD not in printed
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path != given}
    assert any(path.suffix == ".wandb" for path in kept)
    assert [path for path, content in kept.items() if PASSWORD.encode() in content or PASSWORD in str(path)] == []
    assert load_run_config(RunFolder(tmp_path / "runs/tiny").config).data.root == server.url


def test_a_password_on_the_command_line_is_not_in_the_arguments_that_a_run_prints_and_uploads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[RunConfig] = []

    def task(config: RunConfig) -> int:
        seen.append(config)
        return 0

    root = f"data.root=https://me:{PASSWORD}@host/prefix"
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.setattr(sys, "argv", ["train", "experiment=demo", root])
    assert hydra_app(task, "") == 0
    assert seen[0].data.root == "https://host/prefix" and "data.root=https://host/prefix" in sys.argv


def test_a_checkpoint_of_an_earlier_version_has_the_same_root(tmp_path: Path) -> None:
    saved = tiny(tmp_path, data__root=f"https://me:{PASSWORD}@host/prefix").as_plain()
    assert changed_keys(saved, tiny(tmp_path, data__root="https://host/prefix")) == {}
