"""Checks of this machine: packages, GPUs and driver, memory, disks."""

import contextlib
import importlib.util
import os
import re
import shutil
import tempfile
import tomllib
from importlib import metadata
from pathlib import Path

from common.words import counted
from data.fetch.remote import is_remote
from launch.doctor.check import Result, Subject, failed, passed, skipped, warned
from launch.plan.disk import disk
from launch.plan.estimate import GIB, Cluster, estimate
from train.config import rows_per_rank
from train.devices import find_device
from train.run_folder import explained_write_errors

ROOT = Path(__file__).parents[2]
SHARED_MEMORY_GIB = 1.0
DRIVERS = ((13, 580), (12, 525), (11, 450))
"""CUDA's major version -> the oldest driver that runs it; later minor versions of the same driver series do."""


def check_packages(subject: Subject) -> Result:
    """Compares the direct dependencies with the versions that the tests ran on."""
    constraints, project = ROOT / "constraints.txt", ROOT / "pyproject.toml"
    if not constraints.is_file() or not project.is_file():
        return skipped("no constraints.txt here: this is no clone")
    pinned = dict(line.split("==") for line in constraints.read_text().splitlines() if "==" in line)
    absent: list[str] = []
    exact: list[str] = []
    other: list[str] = []
    requirements = tomllib.loads(project.read_text())["project"]["dependencies"]
    for requirement in requirements:
        name = re.split(r"[<>=!~ \[;]", requirement)[0]
        try:
            version = metadata.version(name).partition("+")[0]  # torch names its CUDA behind a plus
        except metadata.PackageNotFoundError:
            absent.append(name)
            continue
        if version != pinned.get(name, version):
            difference = f"{name} {version}, tested with {pinned[name]}"
            (exact if "==" in requirement else other).append(difference)
    install = "`make setup` installs the tested versions"
    if absent or exact:
        return failed("; ".join([*(f"{name} is absent" for name in absent), *exact, *other]), install)
    return warned("; ".join(other), install) if other else passed(f"{len(requirements)} as in constraints.txt")


def check_gpus(subject: Subject) -> Result:
    """Counts the GPUs that a launch would use, and splits the batch over them."""
    num_ranks, gpus = subject.num_ranks, subject.gpus
    rows, times = rows_per_rank(subject.config, num_ranks)
    split = f"{counted(num_ranks, 'rank')}, {counted(times, 'micro-batch')} of {counted(rows, 'row')} each"
    if not gpus:
        if subject.config.engine.precision.value == "bf16":
            fix = "install the NVIDIA driver, ask the scheduler for GPUs, or try engine=any-device"
            return failed(f"none: nvidia-smi lists no GPU, and the config asks for bf16; {split}", fix)
        return warned(f"none: a run would train on the CPU; {split}", "right for the demo, too slow for more")
    names = sorted({gpu.name for gpu in gpus})
    if num_ranks > len(gpus):
        return failed(f"{len(gpus)}, and {counted(num_ranks, 'rank')} asked for", f"use launch.processes={len(gpus)}")
    found = f"{len(gpus)} x {', '.join(names)}; {split}"
    return passed(found) if len(names) == 1 else warned(found, "the slowest sets the speed: use GPUs of one kind")


def check_driver(subject: Subject) -> Result:
    """Compares the driver with the CUDA version that torch was built for."""
    cuda = torch_cuda()
    if not subject.gpus:
        return skipped("no GPU")
    driver = subject.gpus[0].driver
    if cuda is None:
        return failed("torch is a build for CPUs, on a machine with GPUs", "install the CUDA build of torch (README)")
    needed = next((oldest for major, oldest in DRIVERS if major == int(cuda.split(".")[0])), None)
    found = f"driver {driver}, torch built for CUDA {cuda}"
    if needed is None:
        return warned(found, "unknown CUDA version: see NVIDIA's table of drivers")
    if int(driver.split(".")[0]) < needed:
        return failed(f"{found}, which needs {needed} or newer", "update the driver, or install torch for CUDA 12.6")
    return passed(found)


def torch_cuda() -> str | None:
    """Returns the CUDA version of the installed torch, without importing it; None for a build without CUDA."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return None
    text = (Path(found.origin).parent / "version.py").read_text()
    version = re.search(r"^cuda(?:: [^=]+)? = '([\d.]+)'", text, re.MULTILINE)
    return version[1] if version else None


def check_memory(subject: Subject) -> Result:
    """Compares the plan with the memory of the GPUs that are here."""
    if not subject.gpus:
        return skipped("no GPU; `python -m launch plan --gpu NAME` says what one would need")
    gpu = subject.gpus[0]
    device = find_device(gpu.name)
    if device is None:
        return skipped(f"{gpu.name} is not in train/devices.py")
    needs = estimate(subject.config, Cluster(device, subject.num_ranks))
    capacity = device.memory_gib if gpu.memory_gib is None else gpu.memory_gib
    found = f"{needs.needed / GIB:.1f} of {capacity:.1f} GiB on each {gpu.name}, as planned"
    if needs.needed > capacity * GIB:
        return failed(found, "`python -m launch plan` with the same arguments says what to change")
    return passed(found)


def check_shared_memory(subject: Subject) -> Result:
    """Reads the size of /dev/shm, which NCCL and data workers use; containers often have 64 MB."""
    if not Path("/dev/shm").is_dir():
        return skipped("no /dev/shm")
    size = shutil.disk_usage("/dev/shm").total / GIB
    if size < SHARED_MEMORY_GIB:
        return failed(f"/dev/shm has {size:.2f} GiB", "start the container with --shm-size=16g or --ipc=host")
    return passed(f"/dev/shm has {size:.1f} GiB")


def check_disk_for_the_run(subject: Subject) -> Result:
    """Compares the free space below run_root with checkpoints and exports."""
    if shutil.disk_usage(_existing(Path(subject.config.run_root))).total == 0:
        return skipped(f"{subject.config.run_root} is on no disk: see write access")
    needed = disk(subject.config).in_run_folder
    free = _free(Path(subject.config.run_root))
    found = f"{free / 1e9:,.1f} GB free in {subject.config.run_root}, {needed / 1e9:,.1f} GB needed"
    fix = "free space, another run_root=, a smaller checkpoint.keep, or checkpoint.export_hf=false"
    return passed(found) if free >= needed else failed(found, fix)


def check_disk_for_data(subject: Subject) -> Result:
    """Compares free space with what the cache may take, and with published files that are not fetched yet."""
    data = subject.config.data
    files = disk(subject.config)
    folder = Path(data.cache_dir or ("corpora/cache" if is_remote(data.root) else data.root)).expanduser()
    if not is_remote(data.root) and not Path(data.root).expanduser().is_dir() and files.data:
        free, needed = _free(Path(data.root).expanduser()), files.data
        found = f"{free / 1e9:,.1f} GB free in {data.root}, {needed / 1e9:,.1f} GB needed to fetch the files"
        return passed(found) if free >= needed else failed(found, "free space, or another data.root=")
    free, needed = _free(folder), files.cache
    found = f"{free / 1e9:,.1f} GB free in {folder}, at most {needed / 1e9:,.1f} GB needed"
    fix = "free space, another data.cache_dir=, or a bound with data.max_cache_gib="
    return passed(found) if free >= needed else failed(found, fix)


def check_write_access(subject: Subject) -> Result:
    """Writes, locks and deletes a file below run_root."""
    import fcntl

    root = Path(subject.config.run_root)
    with explained_write_errors(root):
        missing = [path for path in (root, *root.parents) if not path.exists()]
        root.mkdir(parents=True, exist_ok=True)
        try:
            with tempfile.NamedTemporaryFile(dir=root, prefix=".doctor-") as file:
                file.write(b"doctor")
                os.fsync(file.fileno())
                try:
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError as error:
                    fix = "a file system with locks (NFS 4, Lustre with flock), or start each run only once"
                    return warned(f"{root} can be written, and has no locks ({error.strerror})", fix)
        finally:
            for path in missing:
                with contextlib.suppress(OSError):  # another node is in it
                    path.rmdir()
    return passed(f"{root} can be written and locked")


def _free(path: Path) -> int:
    """Returns the free bytes where a folder is, or would be made."""
    return shutil.disk_usage(_existing(path)).free


def _existing(path: Path) -> Path:
    """Returns the folder, or the closest one above it that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path
