"""The first Ctrl-C saves, the second ends the process at once, wherever it is; nohup keeps its effect."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from train.signals import NOTICE, STOP_SIGNALS, StopSignals, ignore_stop_signals

ROOT = Path(__file__).parents[2]
WAITING_IN_C = """
import threading
from train.signals import StopSignals
with StopSignals(is_main=True) as signals:
    print("ready", flush=True)
    while signals.received is None:
        threading.Event().wait(0.01)
    print(signals.received, flush=True)
    import ctypes
    ctypes.PyDLL(None).sleep(3600)  # C code that never lets Python run, as a wait for a lost peer may not
"""


def test_a_second_ctrl_c_ends_a_process_that_is_stuck_in_c() -> None:
    command = [sys.executable, "-c", WAITING_IN_C]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "SIGINT\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=900) == -signal.SIGINT
        assert process.stderr.read() == NOTICE.decode()


def test_a_signal_after_the_end_has_no_effect_and_one_after_an_error_has() -> None:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        with StopSignals(is_main=True, until_exit=True) as signals:
            pass
        signal.raise_signal(signal.SIGTERM)
        assert signals.received == "SIGTERM"
        ignore_stop_signals()
        for number in STOP_SIGNALS:
            signal.raise_signal(number)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    with pytest.raises(ValueError, match="of the run"), StopSignals(is_main=True, until_exit=True):
        raise ValueError("of the run")
    assert {number: signal.getsignal(number) for number in STOP_SIGNALS} == before


def test_an_error_after_a_second_entry_gives_signals_back_and_says_nothing_of_a_save(
    capfd: pytest.CaptureFixture[str],
) -> None:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    signals = StopSignals(is_main=True, until_exit=True)
    try:
        with signals:  # until a rollback, say
            pass
        signal.raise_signal(signal.SIGINT)
        assert signals.received == "SIGINT" and capfd.readouterr().err == ""
        with pytest.raises(ValueError, match="of the run"), signals:
            assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL  # the next one ends the process
            raise ValueError("of the run")
        assert {number: signal.getsignal(number) for number in STOP_SIGNALS} == before
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_process_under_nohup_goes_on_after_its_terminal_is_closed() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals(is_main=True) as signals:
            signal.raise_signal(signal.SIGHUP)
            assert signals.received is None
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGUSR1)  # the first is why a run stops
            assert signals.received == "SIGTERM"
    finally:
        signal.signal(signal.SIGHUP, before)
