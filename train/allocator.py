"""What malloc does with the memory that a step on a CPU frees."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
LARGEST_REUSED = 1 << 26  # bytes of a block; a larger one goes back to the system at once
LARGEST_KEPT = (1 << 31) - 1  # bytes at the end of the heap


def keep_freed_memory() -> None:
    """Makes glibc's malloc keep freed memory for what comes next; does nothing with another C library.

    By default it hands most of a step's activations back to the system, which clears every page of them when the next
    step asks for memory: 100 MB and 2 to 5 % of the CPU time of the demo's steps (benchmarks/results/step.md).
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(M_MMAP_THRESHOLD, LARGEST_REUSED)
        set_option(M_TRIM_THRESHOLD, LARGEST_KEPT)
