"""What an export of a checkpoint holds in memory, seen from outside, beside the bytes of the weights.

    python -m benchmarks.export                               269 M parameters, ZeRO 1, 2 and 3, of one and two ranks
    python -m benchmarks.export --model olmo2-1b --folder /path/on/a/large/disk

Anonymous memory is what the process itself fills: weights, Python, libraries. The mapped files of the checkpoint are
added in the process's resident size, but belong to the page cache, which the kernel drops when it needs the memory.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.checkpoint import configured, trained
from benchmarks.figures import Figure, report
from model.accounting import num_parameters
from train.checkpoint.save import Saver
from train.checkpoint.store import Layout
from train.distributed import Ranks, leave
from train.run_folder import RunFolder

PAUSE = 0.005  # seconds between two looks at the process
BYTES = {"fp32": 4, "bf16": 2}  # per parameter
SMALLEST = "tiny"  # its export shows what Python and the libraries take


def save(model: str, stage: int, folder: Path) -> None:
    """Writes a checkpoint after one update, in this process and those beside it."""
    ranks = Ranks()
    ranks.join()
    config = configured(model, folder, [f"engine.zero_stage={stage}"])
    engine = trained(config, ranks)
    layout = Layout.of(config, ranks.world_size, engine.precision)
    saver = Saver(RunFolder.of(config).checkpoints, config.checkpoint, layout, ranks)
    saver.begin(1, engine, {"config": config.as_plain(), "step": 1})
    saver.finish(wait=True)


def peaks(command: list[str]) -> tuple[int, int, float]:
    """Returns the largest anonymous and the largest resident memory of a command in bytes, and its seconds."""
    start, anonymous, resident = time.perf_counter(), 0, 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while process.poll() is None:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        sizes = {
            key: int(value.split()[0]) << 10
            for key, _, value in (line.partition(":") for line in lines)
            if "Rss" in key
        }
        anonymous = max(anonymous, sizes.get("RssAnon", 0))
        resident = max(resident, sum(sizes.values()))
        time.sleep(PAUSE)
    assert process.stderr is not None
    assert process.returncode == 0, process.stderr.read()
    return anonymous, resident, time.perf_counter() - start


def saving(model: str, stage: int, ranks: int, folder: Path) -> list[str]:
    """Returns the command that writes a checkpoint of so many ranks."""
    starter = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    work = ["-m", "benchmarks.export", "--folder", str(folder), "--save", model, str(stage)]
    return [sys.executable, *starter, *work]


def measure(model: str, stage: int, ranks: int, dtype: str, folder: Path, base: int) -> int:
    """Reports the figures of one export; returns the anonymous memory in bytes."""
    out = folder / "exported"
    run = folder / model
    command = [sys.executable, "-m", "model", "export", str(run), str(out), "--dtype", dtype]
    anonymous, resident, seconds = peaks(command)
    written = sum(path.stat().st_size for path in out.iterdir())
    config = configured(model, folder, [])
    copy = num_parameters(config.model, config.positions) * BYTES[dtype]
    what = f"export of {model}, ZeRO {stage} of {ranks} ranks, {dtype}"
    report(
        Figure(f"{what}: written", written / 1e9, "GB"),
        Figure(f"{what}: anonymous memory", anonymous / 1e9, "GB"),
        Figure(f"{what}: resident memory", resident / 1e9, "GB"),
        Figure(f"{what}: time", seconds, "s"),
    )
    if base:
        report(Figure(f"{what}: memory of weights, in copies of them", (anonymous - base) / copy))
    shutil.rmtree(out)
    return anonymous


def main() -> None:
    """Reports the figures of each export."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="small")
    parser.add_argument("--stages", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--folder", type=Path, help="on a disk with 14 bytes a parameter; default: a temporary folder")
    parser.add_argument("--save", nargs=2, metavar=("MODEL", "STAGE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="export-"))
    if arguments.save:
        save(arguments.save[0], int(arguments.save[1]), folder)
        leave(0)
    base = 0
    cases = [(arguments.model, stage, ranks) for stage in arguments.stages for ranks in arguments.ranks]
    for model, stage, ranks in ((SMALLEST, 2, 1), *cases):
        subprocess.run(saving(model, stage, ranks, folder), check=True, stdout=subprocess.DEVNULL)
        found = [measure(model, stage, ranks, dtype, folder, base) for dtype in (BYTES if base else ("fp32",))]
        base = base or found[0]
        shutil.rmtree(folder / model)
    if arguments.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
