"""lm_eval runs on an export without a network: two tasks of our own, and RULER's needles that fetch nothing.

It and we agree on each sample: log-likelihoods, greedy answers and scores.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from evaluate.lm_eval_tasks.make import TASKS, write
from evaluate.scoring import contained
from evaluate.subject import ModelSubject
from evaluate.verbs.opening import Opened

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


def samples_of(out: Path, task: str) -> list[dict[str, Any]]:
    """Returns what lm_eval has recorded of each sample."""
    [path] = out.rglob(f"samples_{task}_*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def check_choices(subject: ModelSubject, row: dict[str, Any]) -> None:
    """Compares the log-likelihood of each choice, and whether the most likely one is right."""
    found = []
    for number, (theirs, _) in enumerate(row["filtered_resps"]):
        context, choice = (row["arguments"][f"gen_args_{number}"][name] for name in ("arg_0", "arg_1"))
        tokens, num_given = subject.encode(context + choice), len(subject.encode(context))
        found.append(-subject.nll(tokens[:num_given], tokens[num_given:]))
        assert found[-1] == pytest.approx(float(theirs), abs=2e-4)
    assert (found.index(max(found)) == row["doc"]["answer"]) == row["acc"]


def generated(subject: ModelSubject, row: dict[str, Any], max_new_tokens: int, until: tuple[str, ...] = ()) -> str:
    """Returns our answer to a recorded prompt, compared with lm_eval's."""
    asked = row["arguments"]["gen_args_0"]["arg_0"]
    answer = subject.decode(subject.continued(subject.encode(asked), max_new_tokens))
    for end in until:
        answer = answer.split(end)[0]
    assert answer == row["resps"][0][0]
    return answer


@pytest.mark.slow
def test_our_tasks_run_offline_and_we_agree_on_each_sample(folder: Path, tmp_path: Path) -> None:
    own = ["--include_path", "evaluate/lm_eval_tasks", "--tasks", ",".join(TASKS), "--limit", "6"]
    found = lm_eval(folder, tmp_path, *own, "--batch_size", "2", "--log_samples")
    assert found.keys() == TASKS.keys()
    assert 0 <= found["recall_in_noise"]["exact_match,number"] <= 1 and 0 <= found["table_lookup"]["acc,none"] <= 1
    rows = samples_of(tmp_path, "table_lookup")
    answers = [row["filtered_resps"] for row in rows]
    assert len(answers) == 6 and len({json.dumps(answer) for answer in answers}) == 6  # each asked, and none alike
    subject = Opened(str(folder), None).subject()
    for row in rows:
        check_choices(subject, row)
    for row in samples_of(tmp_path, "recall_in_noise"):
        generated(subject, row, 8, until=(".", "\n"))


@pytest.mark.slow
def test_rulers_needles_that_fetch_nothing_run_offline_and_we_answer_alike(folder: Path, tmp_path: Path) -> None:
    lengths = ["--metadata", '{"max_seq_lengths": [1024]}']
    found = lm_eval(folder, tmp_path, "--tasks", ",".join(RULER), *lengths, "--limit", "1", "--log_samples")
    assert found.keys() == set(RULER) and all(0 <= found[name]["1024,none"] <= 1 for name in RULER)
    subject = Opened(str(folder), None).subject()
    for name in RULER:
        [row] = samples_of(tmp_path, name)
        assert contained(generated(subject, row, 128), row["doc"]["outputs"]) == row["1024"]


@pytest.mark.slow
def test_lm_evals_scorer_of_rulers_tasks_and_ours_agree() -> None:
    cases = [
        (" 1234567.\x00", ["1234567"]),
        ("alpha, BETA", ["beta", "gamma"]),
        ("", ["1"]),
        ("12 34\n56", ["12", "56", "78", "34"]),
    ]
    code = (
        "import json, sys\n"
        "from lm_eval.tasks.ruler.common_utils import postprocess_pred, string_match_all\n"
        "print(json.dumps([string_match_all(postprocess_pred([a]), [b]) for a, b in json.loads(sys.argv[1])]))\n"
    )
    command = [str(LM_EVAL.with_name("python")), "-P", "-c", code, json.dumps(cases)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert json.loads(found.stdout) == [contained(*case) for case in cases] == [1.0, 0.5, 0.0, 0.75], found.stderr


@pytest.mark.slow
def test_lm_eval_finds_hugging_faces_package_and_not_our_folder() -> None:
    code = "import evaluate; print(evaluate.EvaluationModule.__module__)"
    python = str(LM_EVAL.with_name("python"))
    found = subprocess.run([python, "-P", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.stdout.startswith("evaluate."), found.stderr
