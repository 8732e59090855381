"""python -m benchmarks: run every benchmark in turn. `python -m benchmarks.NAME --help` says what one does."""

import subprocess
import sys
from pathlib import Path

for path in sorted(Path(__file__).parent.glob("[a-z]*.py")):
    # Writes into docs/ (`make pictures`); trains for half an hour; parts of benchmarks.gpu.
    if path.stem in ("pictures", "watch_detectors", "gpu_bench", "gpu_parts", "gpu_speed"):
        continue
    print(f"== {path.stem}", flush=True)
    subprocess.run([sys.executable, "-m", f"benchmarks.{path.stem}"], check=True)
