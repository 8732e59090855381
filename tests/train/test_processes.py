"""What a process of a job leaves behind when it ends."""

import multiprocessing
import os
import signal
import subprocess
from multiprocessing.connection import Connection

import psutil

from train.distributed import leave


def start_two_and_leave(output: Connection) -> None:
    frozen, busy = (subprocess.Popen(["sleep", "600"]) for _ in range(2))
    frozen.send_signal(signal.SIGSTOP)
    os.waitpid(frozen.pid, os.WUNTRACED)
    output.send((frozen.pid, busy.pid))
    leave(3)


def test_a_frozen_process_such_as_that_of_wandb_does_not_outlive_its_rank() -> None:
    ours, theirs = multiprocessing.Pipe(duplex=False)
    rank = multiprocessing.get_context("fork").Process(target=start_two_and_leave, args=(theirs,))
    rank.start()
    frozen, busy = (psutil.Process(number) for number in ours.recv())
    try:
        rank.join()
        assert rank.exitcode == 3
        psutil.wait_procs([frozen], timeout=600)  # only to end a hang: init may take a moment to see its end
        assert not frozen.is_running() or frozen.status() == psutil.STATUS_ZOMBIE
        assert busy.is_running()  # W&B's, too, ends by itself, once all is written
    finally:
        busy.kill()
