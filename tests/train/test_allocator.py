"""Memory that a step frees is there for the next one, without the system clearing its pages again."""

import subprocess
import sys

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


def test_freed_memory_is_reused() -> None:
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    first, second = map(int, run.stdout.split())
    assert first >= NUM_BLOCKS * BLOCK // (1 << 21) and second < first / 10
