"""The parts of `python -m benchmarks.gpu`, each started by it in a process of its own: PART SIZE FILE.

With size `tiny` they run on a CPU as well: shapes are small, nothing is measured there that means anything, and every
line of a part runs but those that need CUDA.
"""

import math
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend

from benchmarks.gpu import ROOT, Notes
from benchmarks.gpu_bench import Bench, Setting, relative, step, timed
from benchmarks.gpu_speed import speed
from model.attention import Documents, attention
from model.config import AttentionBackend, ModelConfig, PositionsConfig
from model.exact import exact_product
from model.loss import LMHead
from model.rotary import Frequencies, rotate
from model.transformer import Olmo2
from model.weights import initialise
from train.callbacks.profile import heaviest_table
from train.config import RunConfig
from train.distributed import Ranks, leave
from train.engine import compilation
from train.engine.build import build_engine
from train.engine.engine import MicroBatch
from train.engine.memory import memory

MEMORY_ERROR = 0.05


def machine(bench: Bench) -> None:
    """Says what runs here, and how fast products, copies and attention are by themselves."""
    notes, is_tiny = bench.notes, bench.is_tiny
    name = torch.cuda.get_device_name() if bench.is_cuda else "CPU"
    versions = {"torch": torch.__version__, "cuda": str(torch.version.cuda), "python": sys.version.split()[0]}
    if bench.is_cuda:
        versions |= {"cudnn": str(torch.backends.cudnn.version()), "nccl": str(torch.cuda.nccl.version())}
    notes.data("versions", versions)
    notes.row("device", f"{name}; " + ", ".join(f"{key} {value}" for key, value in versions.items()))
    dtype, tokens, width = torch.bfloat16, 64 if is_tiny else 32768, 32 if is_tiny else 2048
    seconds = 0.0 if is_tiny else 2.0
    shapes = {"attention": (width, width), "MLP": (4 * width, width), "head": (256 if is_tiny else 100352, width)}
    for label, (outputs, inputs) in shapes.items():
        a, b = (torch.randn(shape, device=bench.device, dtype=dtype) for shape in ((tokens, inputs), (inputs, outputs)))
        passed = timed(bench, lambda a=a, b=b: a @ b, seconds)  # type: ignore[misc]
        rate = 2 * tokens * inputs * outputs / passed / 1e12
        notes.row(f"product, {label} ({tokens} x {inputs} x {outputs}, bf16)", f"{rate:.0f} TFLOP/s", "690 calculated")
        notes.data(f"product {label} TFLOP/s", rate)
    source = torch.empty(1_000 if is_tiny else 2**30, device=bench.device, dtype=torch.uint8)
    passed = timed(bench, lambda: source.clone(), seconds)
    notes.row("copy, read and write", f"{2 * source.numel() / passed / 1e9:.0f} GB/s", "3900 calculated")
    shape = (1, 32, 2, 16) if is_tiny else (8, 4096, 16, 128)
    q, k, v = (torch.randn(shape, device=bench.device, dtype=dtype, requires_grad=True) for _ in range(3))
    if bench.is_cuda:
        q_bhtd, k_bhtd, v_bhtd = (x.transpose(1, 2) for x in (q, k, v))
        choice = SDPBackend(torch._fused_sdp_choice(q_bhtd, k_bhtd, v_bhtd, is_causal=True)).name
        hopper = torch.cuda.get_device_capability()[0] == 9
        notes.row(
            "attention takes", choice, "CUDNN_ATTENTION on Hopper", choice.startswith("CUDNN") if hopper else None
        )

    def both() -> None:
        attention(q, k, v, backend=AttentionBackend.sdpa).sum().backward()

    passed = timed(bench, both, seconds)
    rate = 7 * 2 * shape[0] * shape[2] * shape[1] ** 2 * shape[3] / 2 / passed / 1e12
    notes.row("attention, forward and backward, causal", f"{rate:.0f} TFLOP/s", "500 calculated")


def correctness(bench: Bench) -> None:
    """Compares what has two forms on this device with float64."""
    notes, dtype, tiny = bench.notes, torch.bfloat16, bench.is_tiny
    generator = torch.Generator(bench.device).manual_seed(0)

    def random(*shape: int, kind: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(shape, generator=generator, device=bench.device).to(kind)

    a, b = random(64 if tiny else 4096, 32 if tiny else 2048, kind=dtype), random(32 if tiny else 2048, 16, kind=dtype)
    error = relative(exact_product(a, b), a.double() @ b.double())
    notes.row("exact product of bf16, error", f"{error:.1e}", "below 1e-5", error < 1e-5)
    config = ModelConfig(num_layers=3)
    q, k = (random(1, 16 if tiny else 2048, 16, 128) for _ in range(2))
    frequencies = Frequencies(config, PositionsConfig())
    for largest in (1.0, 1e3, 1e6):
        z = random(1, q.shape[1], 16) * largest
        exact = rotate(q.double(), k.double(), z, frequencies)
        error = max(relative(x, y) for x, y in zip(rotate(q, k, z, frequencies), exact, strict=True))
        notes.row(f"rotation at positions of {largest:g}, error", f"{error:.1e}", "below 1e-6", error < 1e-6)
    if bench.is_cuda:
        documents = Documents.from_boundaries([[0, 100, 1000, q.shape[1]]], bench.device)
        packed = [random(*q.shape, kind=dtype).requires_grad_() for _ in range(3)]
        out, twin = (
            attention(*packed, backend=backend, documents=documents)
            for backend in (AttentionBackend.sdpa, AttentionBackend.plain)
        )
        errors = [relative(out, twin)]
        grads = [torch.autograd.grad(x.float().square().sum(), packed) for x in (out, twin)]
        errors += [relative(x, y) for x, y in zip(*grads, strict=True)]
        notes.row("varlen attention against a mask, error", f"{max(errors):.1e}", "below 2e-2", max(errors) < 2e-2)
    small = bench.config(Setting(False, 2, 0), "repo", 1)
    if not tiny:
        small.model.num_layers, small.model.vocab_size, small.sequence_length = 3, 8192, 512
        small.model.eos_token_id = small.model.pad_token_id = 0
    losses, norms = [], []
    for device, kind in ((torch.device("cpu"), torch.float64), (bench.device, torch.float32), (bench.device, dtype)):
        with torch.device("meta"):
            model = Olmo2(small.model, small.positions).to(kind)
        initialise(model, bench.weights(small), device)
        tokens = bench.tokens(small).to(device)
        total = model(tokens, tokens.roll(-1, 1)).total
        total.backward()
        losses.append(float(total) / tokens.numel())
        norms.append(
            math.sqrt(sum(float(p.grad.double().square().sum()) for p in model.parameters() if p.grad is not None))
        )
    for index, (kind_name, bound) in enumerate((("fp32", 1e-5), ("bf16", 2e-2)), start=1):
        for what, values in (("loss", losses), ("norm of the gradient", norms)):
            error = abs(values[index] / values[0] - 1)
            notes.row(
                f"{what} of a small model in {kind_name}, error", f"{error:.1e}", f"below {bound:g}", error < bound
            )
    head = LMHead(32 if tiny else 2048, 256 if tiny else 100352, 1e-4, 32 if tiny else 4096).to(bench.device, dtype)
    hidden, labels = random(1, 64 if tiny else 4096, head.in_features, kind=dtype), torch.arange(64 if tiny else 4096)
    with torch.no_grad():
        found = head(hidden, labels[None].to(bench.device)).ce
        exact_ce = F.cross_entropy(head(hidden)[0].float(), labels.to(bench.device), reduction="sum")
    error = abs(float(found / exact_ce) - 1)
    notes.row("loss against cross_entropy, error", f"{error:.1e}", "below 1e-3", error < 1e-3)


def training(bench: Bench) -> None:
    """Trains a few steps on one batch, eager and compiled, and looks for waits in a micro-batch."""
    notes, steps = bench.notes, 4 if bench.is_tiny else 8
    losses: dict[bool, list[float]] = {}
    for compiled in (False, True):
        config = bench.config(Setting(compiled, 2 if bench.is_tiny else 4, 1), "repo", 2)
        engine, tokens = bench.engine(config), bench.tokens(config)
        losses[compiled] = [step(engine, config, tokens)[0] for _ in range(steps)]
        word = "compiled" if compiled else "eager"
        fall = losses[compiled][0] - losses[compiled][-1]
        notes.row(
            f"{word}: loss, first and last of {steps} steps on one batch",
            f"{losses[compiled][0]:.3f}, {losses[compiled][-1]:.3f}",
            "falls",
            fall > 0.01,
        )
        notes.data(word, losses[compiled])
        if engine.compilation is not None:
            made = engine.compilation
            notes.row(
                "graphs and seconds of compiling", f"{made.num_graphs}, {made.seconds:.0f} s", "3", made.num_graphs == 3
            )
        if bench.is_cuda:
            rows = tokens[: engine.micro_batch_size]
            micro = MicroBatch(rows, rows.roll(-1, 1))
            torch.cuda.set_sync_debug_mode("error")
            try:
                engine.accumulate(micro, 1.0)
                waits = "none"
            except RuntimeError as error:
                waits = str(error).splitlines()[0]
            finally:
                torch.cuda.set_sync_debug_mode("default")
            notes.row(f"{word}: waits for the device in a micro-batch", waits, "none", waits == "none")
        engine.close()
        del engine
        bench.free()
    apart = max(abs(a / b - 1) for a, b in zip(*losses.values(), strict=True))
    notes.row("losses, compiled against eager, largest difference", f"{apart:.1e}", "below 1e-2", apart < 1e-2)


def resume(bench: Bench) -> None:
    """Trains straight and over a checkpoint, in the deterministic mode and in the default one."""
    for is_deterministic in (True, False):
        for stage in (1, 2, 3):
            setting = Setting(False, 2, stage)
            config = bench.config(setting, "repo", 2, deterministic=is_deterministic)
            if not bench.is_tiny:
                config.model.num_layers, config.model.vocab_size = 4, 8192
                config.model.eos_token_id = config.model.pad_token_id = 0
            with tempfile.TemporaryDirectory() as folder:
                straight = weights_after(bench, config, Path(folder) / "step", stop=None)
                stopped = weights_after(bench, config, Path(folder) / "step", stop=2)
            apart = max(float((a - b).abs().max()) for a, b in zip(straight, stopped, strict=True))
            mode = "deterministic" if is_deterministic else "default"
            said = "equal to the bit" if apart == 0 else f"largest difference of a weight {apart:.1e}"
            bench.notes.row(
                f"{mode}, ZeRO {stage}: four steps, straight and resumed after two",
                said,
                "equal to the bit" if is_deterministic else "",
                apart == 0 if is_deterministic else None,
            )


def weights_after(bench: Bench, config: RunConfig, folder: Path, stop: int | None) -> list[Tensor]:
    """Returns the masters after four steps, on the CPU; with `stop`, over a checkpoint after so many."""
    engine = bench.engine(config)
    for number in range(4):
        if number == stop:
            folder.mkdir(parents=True)
            engine.save(folder, _write)
            engine.close()
            engine = build_engine(config, bench.ranks, None)
            engine.load(folder)
        step(engine, config, bench.tokens(config, number))
    found = [value.cpu().clone() for _, value in engine.full_parameters()]
    engine.close()
    del engine
    bench.free()
    return found


def _write(state: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)


def profile(bench: Bench) -> None:
    """Names the heaviest kernels of a step, and compares the peak of memory with the plan."""
    setting = Setting(True, 2 if bench.is_tiny else 8, 1)
    config = bench.config(setting, "repo", 2)
    engine, tokens = bench.engine(config), bench.tokens(config)
    for _ in range(2):
        step(engine, config, tokens)
    before = torch.cuda.memory_allocated() if bench.is_cuda else 0
    for _ in range(2 if bench.is_tiny else 10):
        step(engine, config, tokens)
    if bench.is_cuda:
        planned, peak = memory(config, 1, on_gpu=True).peak / 2**30, torch.cuda.max_memory_allocated() / 2**30
        error = peak / planned - 1
        bench.notes.row(
            f"{setting.text}: peak of memory",
            f"{peak:.1f} GiB ({error:+.1%})",
            f"{planned:.1f} GiB within 5 %",
            abs(error) <= MEMORY_ERROR,
        )
        bench.notes.row("reserved by the allocator", f"{torch.cuda.max_memory_reserved() / 2**30:.1f} GiB")
        grown = torch.cuda.memory_allocated() - before
        bench.notes.row("memory that ten steps add", f"{grown / 2**20:.1f} MiB", "none", grown < 2**20)
    activities = [torch.profiler.ProfilerActivity.CPU]
    activities += [torch.profiler.ProfilerActivity.CUDA] if bench.is_cuda else []
    with torch.profiler.profile(activities=activities) as recorded:
        step(engine, config, tokens)
        bench.wait()
    table = heaviest_table(recorded, on_gpu=bench.is_cuda, number=30)
    for name, milliseconds, share, calls in table[:10]:
        bench.notes.row(f"`{name[:70].replace('|', '/')}`", f"{milliseconds:.1f} ms, {share:.1%}, {calls} calls")
    bench.notes.data("kernels", table)
    engine.close()


def tests(bench: Bench) -> None:
    """Runs the tests that need a GPU."""
    if not bench.is_cuda:
        bench.notes.row("tests that need a GPU", "not run: no GPU")
        return
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "gpu",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/model",
        "tests/train",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    last = (done.stdout.strip().splitlines() or done.stderr.strip().splitlines() or ["no output"])[-1]
    bench.notes.row("tests that need a GPU", last, "all pass", done.returncode == 0)
    bench.notes.data("output", done.stdout[-20_000:])


def main() -> int:
    """Runs the part that the command line names: PART SIZE FILE; returns the exit code."""
    part, size, path = sys.argv[1:4]
    notes = Notes(Path(path), part)
    parts = {work.__name__: work for work in (machine, correctness, training, speed, resume, profile, tests)}
    if size == "tiny":
        compilation.BACKEND = "aot_eager"  # a compiler of C++ takes a minute on a CPU
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    ranks = Ranks()
    try:
        ranks.join()
        parts[part](Bench(ranks, size, notes))
    except Exception as error:
        traceback.print_exc()
        notes.end(f"failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
        return 1
    notes.end("done")
    return 0


if __name__ == "__main__":
    leave(main())
