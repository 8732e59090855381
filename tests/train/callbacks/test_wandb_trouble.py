"""A W&B server that is down, or never answers, neither ends a run nor delays it."""

import contextlib
import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.train.tiny import tiny
from train.callbacks import weights_and_biases
from train.callbacks.callback import TrainerInterface
from train.callbacks.config import WandbMode
from train.errors import Stop, StopReason
from train.run_folder import RunFolder

REFUSAL = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def wandb_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "W&B"]


@pytest.fixture(scope="module")
def listening() -> Iterator[socket.socket]:
    """Accepts connections, of which nothing is read. One for all tests: W&B keeps the address of its first server."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(64)
        yield server


@pytest.fixture
def unanswering_server(listening: socket.socket, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """W&B's server does not answer; after the test it refuses, so that W&B ends."""
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{listening.getsockname()[1]}")  # until W&B has ended
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    yield
    listening.settimeout(0.1)
    while wandb_threads():
        with contextlib.suppress(OSError):
            connection, _ = listening.accept()
            with connection:
                connection.settimeout(10)  # W&B tries a connection that is closed without an answer again, for 90 s
                connection.recv(1 << 16)
                connection.sendall(REFUSAL)


@pytest.mark.usefixtures("unanswering_server")
def test_a_server_that_never_answers_delays_only_the_end_and_for_a_bounded_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(weights_and_biases, "CLOSE_TIMEOUT", 0.1)
    config = tiny(tmp_path, wandb__mode=WandbMode.online)
    stand_in: Any = SimpleNamespace(step=0, folder=RunFolder.of(config))
    trainer = cast(TrainerInterface, stand_in)
    callback = weights_and_biases.for_run(config)
    callback.on_start(trainer)
    for step in range(1, 200):
        callback.on_metrics(trainer, {"step": step, "train/loss": 2.0})
    assert wandb_threads() and not caplog.records  # it is still waiting: none of these calls has waited with it
    callback.on_stop(trainer, Stop(StopReason.finished))
    assert wandb_threads()
    [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
    message = record.getMessage()
    assert message.startswith(
        "W&B is not available (no answer in 0.1 s): going on without it; metrics.jsonl has everything"
    )
    assert f"python -m train.callbacks.weights_and_biases {config.run_root}/{config.name}" in message


@pytest.mark.usefixtures("unanswering_server")
def test_a_backlog_that_grows_without_end_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(weights_and_biases, "MAX_QUEUED_ROWS", 50)
    config = tiny(tmp_path, wandb__mode=WandbMode.online)
    stand_in: Any = SimpleNamespace(step=0, folder=RunFolder.of(config))
    callback = weights_and_biases.for_run(config)
    callback.on_start(cast(TrainerInterface, stand_in))
    for step in range(1, 200):
        callback.on_metrics(cast(TrainerInterface, stand_in), {"step": step, "train/loss": 2.0})
    callback.on_stop(cast(TrainerInterface, stand_in), Stop(StopReason.finished))
    assert ["it is 50 rows behind" in record.getMessage() for record in caplog.records].count(True) == 1
