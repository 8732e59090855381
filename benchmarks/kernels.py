"""Compiles the Triton kernels for GPUs that need not be there, and reports what they take of a processor.

    python -m benchmarks.kernels            prints the table
    python -m benchmarks.kernels --write    commits it to benchmarks/results/kernels.md

Registers, stack, shared memory and instructions are read from the machine code with the `cuobjdump` of the Triton
package. A spill is a register that is written to memory for want of room: it shows as stack or as local memory.
"""

import argparse
import itertools
import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, fields
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.figures import Figure, Origin, markdown_table, report

RESULTS = Path(__file__).parent / "results" / "kernels.md"
TARGETS = {"A100": 80, "H100, H200": 90, "B200": 100}
"""GPU -> compute capability, as in sm_90."""
SHAPES = {"1B": (16, 1, 64), "7B": (32, 1, 64), "grouped": (4, 4, 64)}
"""Shape -> key-value heads, query heads for each, pairs of a head."""
MODES = {"none": 0, "index": 1, "head": 2}
"""Kind of positions -> the kernels' number for it (model/rotary_kernel.py)."""


@dataclass(frozen=True)
class Usage:
    """What one kernel takes, compiled for bf16."""

    shape: str
    positions: str
    kernel: str
    warps: int
    registers: int
    """Per thread; 255 is the most there are."""
    spills: int
    """Bytes of stack and local memory per thread."""
    shared: int
    """Bytes of shared memory per program."""
    instructions: int
    wide: str
    """Loads and stores of 16 bytes, of all loads and stores of global memory."""


def usages(capability: int, shapes: Iterable[str], modes: Iterable[str]) -> Iterator[Usage]:
    """Yields what the kernels take on GPUs of this capability, by shape and kind of positions."""
    from model.rotary_kernel import BACKWARD_PAIRS, FORWARD_PAIRS, Sizes, backward_kernel, forward_kernel

    for shape, positions in itertools.product(shapes, modes):
        sizes = Sizes(*SHAPES[shape])
        constants: dict[str, Any] = {"MODE": MODES[positions], **sizes.constants()}
        for name, kernel, more, pairs in (
            ("forward", forward_kernel, {}, FORWARD_PAIRS),
            ("backward", backward_kernel, {"WITH_DZ": positions == "head"}, BACKWARD_PAIRS),
        ):
            num_warps = sizes.num_warps(pairs)
            compiled = _compile(kernel, constants | more, capability, num_warps, index=positions == "index")
            yield _measured(compiled, partial(Usage, shape, positions, name, num_warps))


def _compile(kernel: Any, constants: dict[str, Any], capability: int, num_warps: int, *, index: bool) -> Any:
    """Returns the kernel as it is compiled for bf16 q and k of aligned rows."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from model.rotary_kernel import OPTIONS

    in_bf16 = {"Q", "K", "WQ", "WK", "Q_OUT", "K_OUT", "Q_GRAD", "K_GRAD", "DQ", "DK"}
    in_float32 = {"TABLE", "Q_SCALE", "K_SCALE", "DWQ", "DWK", "DZ"}
    signature = {name: "fp32" if name in ("eps", "factor") else "i32" for name in kernel.arg_names}
    signature |= dict.fromkeys(constants, "constexpr") | {"Z": "*i64" if index else "*fp32"}
    signature |= {name: "*bf16" if name in in_bf16 else "*fp32" for name in signature if name in in_bf16 | in_float32}
    divisible = [["tt.divisibility", 16]]
    attributes = {(i,): divisible for i, kind in enumerate(signature.values()) if kind[0] == "*" or kind == "i32"}
    source = ASTSource(
        kernel, signature, {(kernel.arg_names.index(name),): value for name, value in constants.items()}, attributes
    )
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": num_warps} | OPTIONS)


def _measured(compiled: Any, usage: Any) -> Usage:
    import triton

    cuobjdump = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        resources, code = (
            subprocess.run([str(cuobjdump), option, str(cubin)], capture_output=True, text=True, check=True).stdout
            for option in ("--dump-resource-usage", "-sass")
        )
    found = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL|SHARED):(\d+)", resources)}
    operations = re.findall(r"/\*[0-9a-f]{4,6}\*/\s+(?:@!?U?P\d+\s+)?([A-Z][A-Z0-9_.]*)", code)
    memory = [name for name in operations if re.match(r"(LDG|STG)\b", name)]
    local = sum(name.startswith(("LDL", "STL")) for name in operations)
    wide = sum(".128" in name for name in memory)
    spilled = found["STACK"] + found["LOCAL"] + local
    return usage(
        found["REG"], spilled, found["SHARED"] or compiled.metadata.shared, len(operations), f"{wide} of {len(memory)}"
    )


def table(rows: dict[str, list[Usage]]) -> str:
    """Returns the Markdown table."""
    cells = [(gpu, *map(str, astuple(usage))) for gpu, of_gpu in rows.items() for usage in of_gpu]
    return markdown_table(("GPU", *(field.name for field in fields(Usage))), cells)


def main() -> None:
    """Prints the table, or commits it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    parser.add_argument("--gpu", choices=TARGETS, action="append", help="only this one")
    parser.add_argument("--shape", choices=SHAPES, action="append", help="only this one")
    parser.add_argument("--positions", choices=MODES, action="append", help="only this kind")
    arguments = parser.parse_args()
    shapes, modes = arguments.shape or SHAPES, arguments.positions or MODES
    found = {gpu: list(usages(TARGETS[gpu], shapes, modes)) for gpu in arguments.gpu or TARGETS}
    rows = table(found)
    print(rows)
    for gpu, of_gpu in found.items():
        spills, registers = (max(getattr(usage, name) for usage in of_gpu) for name in ("spills", "registers"))
        report(
            Figure(f"{gpu}: spills of a Triton kernel, at worst", spills, "bytes", at_most=0, origin=Origin.counted),
            Figure(f"{gpu}: registers of a Triton kernel, at worst", registers, at_most=255, origin=Origin.counted),
        )
    if arguments.write:
        RESULTS.write_text(RESULTS.read_text(encoding="utf-8").partition("| GPU |")[0] + rows, encoding="utf-8")


if __name__ == "__main__":
    main()
