"""The Dockerfile, which is not built here: its versions are the pinned ones, and its context holds what it copies."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCKERFILE = ROOT / "Dockerfile"
LINES = DOCKERFILE.read_text().replace("\\\n", " ").splitlines()


def instructions(name: str) -> list[str]:
    return [line.removeprefix(f"{name} ") for line in LINES if line.startswith(f"{name} ")]


def test_every_package_comes_through_the_constraints() -> None:
    installs = re.findall(r"pip install[^;&\n]*", "\n".join(instructions("RUN")))
    assert len(installs) == 3 and all("-c constraints.txt" in install for install in installs)
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [re.split(r"[<>=!~ \[;]", dependency)[0] for dependency in project["dependencies"]]
    assert [name for name in names if name not in pinned] == []


def test_the_base_is_the_cuda_of_the_pinned_torch() -> None:
    [cuda] = re.findall(r"^ARG CUDA=(\d+\.\d+)\.\d+$", DOCKERFILE.read_text(), re.MULTILINE)
    [torch] = re.findall(r"^torch==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert f"torch {torch} brings CUDA {cuda}" in " ".join((ROOT / "README.md").read_text().split())
    assert instructions("FROM") == ["nvidia/cuda:${CUDA}-base-ubuntu24.04"]


def test_the_context_has_what_is_copied_and_nothing_that_git_ignores() -> None:
    for line in instructions("COPY"):
        for source in line.split()[1:-1]:
            assert (ROOT / source).exists()
    ignored = {line.strip("/").removeprefix("**/") for line in (ROOT / ".dockerignore").read_text().splitlines()}
    by_git = {line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()}
    assert by_git <= ignored
    assert ignored.isdisjoint({"configs", "launch", "train", "model", "data", "report", "common", "README.md"})


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed")
def test_the_linter_of_dockerfiles_is_content() -> None:
    ended = subprocess.run(["hadolint", str(DOCKERFILE)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout
