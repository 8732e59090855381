"""lm_eval runs on an export without a network: two tasks of our own, and RULER's needles that fetch nothing."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from evaluate.lm_eval_tasks.make import TASKS, write

ROOT = Path(__file__).parents[2]
LM_EVAL = ROOT / ".venv-lm-eval" / "bin" / "lm_eval"
OWN = ROOT / "evaluate" / "lm_eval_tasks"
RULER = ["niah_single_1", "niah_multikey_2", "niah_multikey_3"]


def test_the_data_is_what_the_code_beside_it_writes(tmp_path: Path) -> None:
    write(tmp_path)
    for name in TASKS:
        assert (tmp_path / f"{name}.jsonl").read_bytes() == (OWN / f"{name}.jsonl").read_bytes()
        items = [json.loads(line) for line in (OWN / f"{name}.jsonl").read_text().splitlines()]
        answers = [item["choices"][item["answer"]] if "choices" in item else item["answer"] for item in items]
        assert all(item["text"].count(answer) == 1 for item, answer in zip(items, answers, strict=True))


def lm_eval(folder: Path, out: Path, *arguments: str) -> dict[str, Any]:
    """Returns the results of a run offline, by task."""
    assert LM_EVAL.is_file(), "make lm-eval builds .venv-lm-eval"
    model = f"pretrained={folder},trust_remote_code=True,dtype=float32"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    offline = {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HOME": str(out / "hub"),
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = [str(LM_EVAL), "--model", "hf", "--model_args", model, "--device", "cpu", "--output_path", str(out)]
    ended = subprocess.run(
        [*command, *arguments], cwd=ROOT, env=environment | offline, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr[-6000:]
    [results] = out.rglob("results_*.json")
    found: dict[str, Any] = json.loads(results.read_text())["results"]
    return found


@pytest.mark.slow
def test_our_tasks_run_offline(folder: Path, tmp_path: Path) -> None:
    own = ["--include_path", "evaluate/lm_eval_tasks", "--tasks", ",".join(TASKS), "--limit", "6"]
    found = lm_eval(folder, tmp_path, *own, "--batch_size", "2", "--log_samples")
    assert found.keys() == TASKS.keys()
    assert 0 <= found["recall_in_noise"]["exact_match,number"] <= 1 and 0 <= found["table_lookup"]["acc,none"] <= 1
    [samples] = tmp_path.rglob("samples_table_lookup_*.jsonl")
    answers = [json.loads(line)["filtered_resps"] for line in samples.read_text().splitlines()]
    assert len(answers) == 6 and len({json.dumps(answer) for answer in answers}) == 6  # each asked, and none alike


@pytest.mark.slow
def test_rulers_needles_that_fetch_nothing_run_offline(folder: Path, tmp_path: Path) -> None:
    lengths = ["--metadata", '{"max_seq_lengths": [1024]}']
    found = lm_eval(folder, tmp_path, "--tasks", ",".join(RULER), *lengths, "--limit", "1")
    assert found.keys() == set(RULER) and all(0 <= found[name]["1024,none"] <= 1 for name in RULER)


@pytest.mark.slow
def test_lm_eval_finds_hugging_faces_package_and_not_our_folder() -> None:
    code = "import evaluate; print(evaluate.EvaluationModule.__module__)"
    python = str(LM_EVAL.with_name("python"))
    found = subprocess.run([python, "-P", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.stdout.startswith("evaluate."), found.stderr
