"""The code of an export, and its tokenizer, work with the oldest supported transformers; other tests use the newest."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
OLDEST = "5.16.1"
"""The oldest that vLLM 0.33 allows."""


@pytest.mark.slow
def test_an_export_works_with_the_oldest_transformers(tmp_path: Path) -> None:
    install = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "install", "--target", str(tmp_path)]
    subprocess.run([*install, "--no-deps", f"transformers=={OLDEST}"], check=True)
    subprocess.run([*install, "huggingface_hub>=1.5,<2"], check=True)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    here = Path(__file__).parent.relative_to(ROOT)
    tests = [str(here / name) for name in ("test_modeling_repo_olmo2.py", "test_tokenizer.py")]
    code = "import transformers; print(transformers.__version__)"
    seen = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == OLDEST
    command = [sys.executable, "-m", "pytest", *tests, "-q", "-W", "ignore", "-p", "no:cacheprovider"]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout[-6000:]
