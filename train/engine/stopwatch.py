"""Device time of a part of the work, measured without waiting for the device."""

import time
from collections.abc import Callable

import torch


class Stopwatch:
    """Adds up the time spent inside `with stopwatch:`; `lap` returns the sum and resets it.

    On a CUDA device it is the device's time, by events on the current stream; elsewhere it is `clock`'s, in seconds.
    """

    def __init__(self, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> None:
        self._is_cuda = device.type == "cuda"
        self._clock = clock
        self._seconds = 0.0
        self._start = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def __enter__(self) -> None:
        if self._is_cuda:
            self._events.append((torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)))
            self._events[-1][0].record()
        else:
            self._start = self._clock()

    def __exit__(self, *_: object) -> None:
        if self._is_cuda:
            self._events[-1][1].record()
        else:
            self._seconds += self._clock() - self._start

    def lap(self) -> float:
        """Returns the seconds measured since the last call, and starts again from zero.

        Waits for the device if it has not finished the work: to be called where the host has waited anyway.
        """
        if self._events:
            self._events[-1][1].synchronize()
        seconds = self._seconds + sum(start.elapsed_time(end) for start, end in self._events) / 1000
        self._seconds, self._events = 0.0, []
        return seconds
