"""The GPUs of this machine as nvidia-smi lists them; nothing loads CUDA."""

import functools
import subprocess
from dataclasses import dataclass

QUERY = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader,nounits"]


@dataclass(frozen=True)
class Gpu:
    """One GPU."""

    name: str
    driver: str
    memory_gib: float | None
    """None where the driver does not say, as on some partitioned GPUs."""


@functools.cache
def installed_gpus() -> tuple[Gpu, ...]:
    """Returns all GPUs of this machine, visible to CUDA or not; none without nvidia-smi."""
    try:
        listing = subprocess.run(QUERY, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    rows = [[word.strip() for word in line.split(",")] for line in listing.stdout.splitlines()]
    return tuple(Gpu(name, driver, float(mib) / 1024 if mib.isdigit() else None) for name, driver, mib in rows)
