"""Memory that a step frees is there for the next one, without the system clearing its pages again."""

import subprocess
import sys

import pytest

from train import allocator

BLOCK, NUM_BLOCKS = 16 << 20, 8
SCRIPT = f"""
import resource
from train.allocator import keep_freed_memory

def fresh_pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [bytearray({BLOCK}) for _ in range({NUM_BLOCKS})]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_freed_memory()
print(fresh_pages(), fresh_pages())
"""


class Libc:
    """A C library, whose malloc takes its options or not."""

    def __init__(self, takes: bool) -> None:
        self.given: list[int] = []
        self._takes = takes

    def mallopt(self, option: int, value: int) -> int:
        self.given.append(option)
        return int(self._takes)


@pytest.mark.parametrize(("takes", "given"), [(True, 2), (False, 1)])
def test_memory_is_kept_only_where_blocks_are_reused(monkeypatch: pytest.MonkeyPatch, takes: bool, given: int) -> None:
    libc = Libc(takes)
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: libc)
    allocator.keep_freed_memory()
    assert len(libc.given) == given


def test_freed_memory_is_reused() -> None:
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    first, second = map(int, run.stdout.split())
    assert first >= NUM_BLOCKS * BLOCK // (1 << 21) and second < first / 10
