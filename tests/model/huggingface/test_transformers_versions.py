"""The code of an export, and its tokenizer, work with the oldest and the newest supported transformers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("version", "hub"),
    [
        ("5.16.1", "huggingface_hub>=1.5,<2"),  # the oldest that vLLM 0.33 allows
        ("5.23.0", "huggingface_hub>=2,<3"),
    ],
)
def test_an_export_works_with_this_transformers(tmp_path: Path, version: str, hub: str) -> None:
    install = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "install", "--target", str(tmp_path)]
    subprocess.run([*install, "--no-deps", f"transformers=={version}"], check=True)
    subprocess.run([*install, hub], check=True)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    here = Path(__file__).parent.relative_to(ROOT)
    tests = [str(here / name) for name in ("test_modeling_repo_olmo2.py", "test_tokenizer.py")]
    code = "import transformers; print(transformers.__version__, transformers.__file__)"
    seen = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert seen.stdout.startswith(f"{version} {tmp_path}")
    command = [sys.executable, "-m", "pytest", *tests, "-q", "-W", "ignore", "-p", "no:cacheprovider"]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout[-6000:]
