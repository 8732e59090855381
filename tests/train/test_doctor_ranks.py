"""The ranks of the doctor (launch/doctor/worker.py); here, because these tests have two real ranks already."""

from launch.doctor.check import State
from launch.doctor.ranks import judge_all_reduce, judge_clocks
from launch.doctor.worker import measure
from tests.distributed import run_ranks


def test_real_ranks_measure_their_all_reduce() -> None:
    first, second = run_ranks(measure, 2)
    assert first["world_size"] == 2 and first["sum_is_right"] and first["bytes_per_second"] > 0
    assert (first["device"], first["backend"], first["nccl"]) == ("cpu", "gloo", "")
    assert first["clocks"] == second["clocks"] and judge_clocks(first).state is State.skipped
    assert judge_all_reduce(first, "").state is State.passed
