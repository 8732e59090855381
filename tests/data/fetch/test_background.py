"""Background work delays neither the next job nor the end of the process."""

import logging
import threading
import time

import pytest

from data.errors import DataError
from data.fetch.background import Background, Later, run_all


def test_a_job_that_fails_in_any_way_is_logged_and_the_next_one_is_done(caplog: pytest.LogCaptureFixture) -> None:
    background, done = Background(), threading.Event()
    with caplog.at_level(logging.WARNING):
        background.submit(lambda: 1 // 0)
        background.submit(done.set)
        assert done.wait(600)
    assert "ahead of need: integer division or modulo by zero" in caplog.text


def test_what_is_for_later_is_done_in_order_once_it_may_begin(caplog: pytest.LogCaptureFixture) -> None:
    later, done = Later(), list[int]()
    assert later.add(lambda: done.append(1)) and later.add(lambda: 1 // 0) and later.add(lambda: done.append(2))
    assert not done and later.is_waiting
    later.finish()
    assert done == [1, 2] and "division" in caplog.text
    assert not later.add(lambda: done.append(3)) and not later.is_waiting
    later.finish()
    assert done == [1, 2]


def test_many_jobs_for_later_that_fail_are_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    later, done = Later(), threading.Event()

    def fail() -> None:
        raise DataError("the disk is full; free disk space")

    for job in (fail, fail, done.set, fail):
        later.add(job)
    with caplog.at_level(logging.DEBUG, "data.fetch.background"):
        later.finish()
    assert done.is_set()
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.DEBUG, logging.DEBUG]
    assert caplog.messages[0] == "rows that were read are not kept: the disk is full; free disk space"


def test_results_come_in_the_order_of_the_items() -> None:
    def slow_first(number: int) -> int:
        time.sleep(0.05 if number == 0 else 0.0)
        return number * number

    assert run_all(slow_first, range(20), 4) == [number * number for number in range(20)]
    assert run_all(slow_first, [], 4) == []


def test_the_first_error_is_raised_at_once_and_nothing_new_begins() -> None:
    begun: list[int] = []
    ended: list[int] = []
    released = threading.Event()

    def work(number: int) -> None:
        begun.append(number)
        if number == 1:
            raise ValueError("number 1")
        released.wait(600)
        ended.append(number)

    with pytest.raises(ValueError, match="number 1"):
        run_all(work, range(100), 3)
    assert not ended  # the others still run
    released.set()
    while len(ended) < len(begun) - 1:
        time.sleep(0.001)
    assert sorted(begun) in ([0, 1], [0, 1, 2], [0, 1, 2, 3])
