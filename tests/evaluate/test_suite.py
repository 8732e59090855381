"""`python -m evaluate suite`: which commands, YaRN without a copy of weights, one line for a task that cannot run.

A script stands in for lm_eval: it writes what lm_eval writes, or fails as it does without the data.
"""

import csv
import json
import sys
from pathlib import Path

import pytest

from evaluate.__main__ import main
from evaluate.suite.published import published
from evaluate.suite.suites import SUITES, entries
from evaluate.verbs import suite
from evaluate.verbs.opening import Opened

STAND_IN = """#!{python}
import json, sys
from pathlib import Path
given = dict(zip(sys.argv[1::1], sys.argv[2::1]))
length = json.loads(given["--metadata"])["max_seq_lengths"][0] if "--metadata" in given else 0
tasks, out = given["--tasks"].split(","), Path(given["--output_path"]) / "model"
Path({calls!r}).open("a").write(given["--tasks"] + chr(10))
if tasks == ["arc_easy"] and not Path({calls!r}).with_name("data").exists():
    print("Traceback (most recent call last):" + chr(10) + "ConnectionError: Couldn't reach 'allenai/ai2_arc'")
    sys.exit(1)
out.mkdir()
results = {{"boolq": {{"acc,none": 0.75, "acc_stderr,none": 0.125}}, "arc_easy": {{"acc_norm,none": 0.5}}}}
counts = {{task: {{"original": 9, "effective": 4}} for task in tasks}}
(out / "results_1.json").write_text(json.dumps({{"results": results, "n-samples": counts}}))
for task in tasks:
    rows = [{{"doc": {{"outputs": ["a", "b"]}}, "filtered_resps": [said], str(length): score}} for said, score in
            (("A!", 0.5), ("", 0.0))]
    (out / f"samples_{{task}}_1.jsonl").write_text("".join(json.dumps(row) + chr(10) for row in rows))
"""


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """A command in the place of lm_eval; `calls` beside it lists the tasks of each call."""
    path = tmp_path / "bin" / "lm_eval"
    path.parent.mkdir()
    path.write_text(STAND_IN.format(python=sys.executable, calls=str(path.with_name("calls"))))
    path.chmod(0o755)
    return path


def test_the_papers_settings_are_those_of_a_model_of_4096_tokens() -> None:
    ruler = [entry for entry in entries("paper", 4096) if entry.is_ruler]
    assert {(entry.length, entry.factor) for entry in ruler} == {(4096, None), (8192, 2.0), (16384, 4.0)}
    assert len(ruler) == 3 * 13 and all(entry.limit == 100 for entry in ruler)
    assert {entry.task for entry in ruler if entry.any_answer} == {"ruler_qa_squad", "ruler_qa_hotpot"}
    for size, hidden in (("1B", 2048), ("7B", 4096)):
        found, numbers = published(hidden)
        columns = {entry.column for name in SUITES for entry in entries(name, 4096)} - {None}
        assert found == size and all(row.keys() == columns for row in numbers.values())
    assert published(2048)[1]["RePo"]["niah_multiquery"] == 89.8
    assert published(2048)[1]["RePo"]["longbench_triviaqa"] == 73.02
    assert published(4096)[1]["RePo"]["triviaqa"] == 76.8
    assert not any(entry.data for entry in entries("local", 4096)) and suite.SUITES == SUITES


def test_a_dry_run_prints_the_commands_and_the_data(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["suite", str(folder), "--suite", "paper", "--dry-run", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    alone = "--tasks niah_single_2 --metadata '{\"max_seq_lengths\": [8192]}' --limit 100 --log_samples"
    together = "--tasks niah_single_1,niah_multikey_2,niah_multikey_3,ruler_vt,ruler_cwe,ruler_fwe"
    assert said.count(alone) == 1 and said.count(together) == 3 and "out-yarn-2,trust_remote_code=True" in said
    assert "load_dataset('baber/paul_graham_essays')" in said and "dev-v2.0.json" in said and "HybridQA" in said
    assert not (tmp_path / "out").exists()


def test_a_task_without_its_data_is_one_line_and_the_others_run(
    folder: Path, tmp_path: Path, stand_in: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    general = ["suite", str(folder), "--suite", "general", "--task", "boolq,arc_easy", "--lm-eval", str(stand_in)]
    command = [*general, "--out", str(tmp_path / "out")]
    assert main(command) == 2
    said = capsys.readouterr()
    [line] = [each for each in said.err.splitlines() if each.startswith("arc_easy")]
    assert "ConnectionError: Couldn't reach 'allenai/ai2_arc'" in line and "it needs https://huggingface.co/" in line
    assert said.err.splitlines()[-1].startswith("error: 1 of 2 tasks were not run")
    assert (
        "| boolq |  |  | 75.0 ± 12.5 | 4 | 72.12 | 66.7 |" in said.out and "| arc_easy |  |  | not run |  |" in said.out
    )
    stand_in.with_name("data").touch()
    assert main(command) == 0
    assert stand_in.with_name("calls").read_text().split() == ["arc_easy", "boolq", "arc_easy"]
    with (tmp_path / "out" / "suite-general.csv").open() as file:
        rows = {row["task"]: row for row in csv.DictReader(file)}
    assert rows["boolq"]["score_se"] == "12.5" and rows["arc_easy"]["score"] == "50.0"
    assert rows["boolq"]["paper_RePo_1B"] == "73.58"


def test_rulers_questions_count_any_right_answer_and_yarn_copies_no_weights(
    folder: Path, tmp_path: Path, stand_in: Path
) -> None:
    length = json.loads((folder / "config.json").read_text())["max_position_embeddings"]
    stretched = tmp_path / "out" / "suite-paper" / "models" / f"{folder.name}-yarn-2"
    tasks = ["--task", "ruler_qa_squad,ruler_cwe", "--length", "256", "--lm-eval", str(stand_in.parent)]
    command = ["suite", str(folder), "--suite", "paper", *tasks, "--out", str(tmp_path / "out")]
    assert main(command) == 0
    with (tmp_path / "out" / "suite-paper.csv").open() as file:
        rows = {row["task"]: row for row in csv.DictReader(file)}
    assert float(rows["ruler_cwe"]["score"]) == 25.0 and float(rows["ruler_qa_squad"]["score"]) == 50.0
    assert float(rows["ruler_cwe"]["score_se"]) == 25.0 and rows["ruler_cwe"]["samples"] == "2"
    longer = ["--task", "ruler_cwe", "--length", str(2 * length), "--lm-eval", str(stand_in.parent)]
    assert main(["suite", str(folder), "--suite", "paper", *longer, "--out", str(tmp_path / "out")]) == 0
    opened = Opened(str(stretched), None)
    assert opened.trained_length() == 2 * length and opened.writer.positions_config.yarn is not None
    assert opened.writer.positions_config.yarn.factor == 2.0
    assert (stretched / "model.safetensors").resolve() == (folder / "model.safetensors").resolve()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--suite", "local", "--lm-eval", "absent"], "absent is absent: `make lm-eval` builds it"),
        (["--suite", "papers"], "invalid choice: 'papers'"),
        (["--suite", "local", "--task", "cope"], "--task cope is none of local: it has niah_"),
        (["--suite", "local", "--length", "0"], "--length and --limit must be 1 or more"),
        (["--suite", "local", "--limit", "0"], "--length and --limit must be 1 or more"),
        (["--suite", "local", "--length", "4k"], "--length 4k: give whole numbers"),
    ],
)
def test_a_mistake_is_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    try:
        code: object = main(["suite", str(folder), *arguments, "--out", str(tmp_path / "out")])
    except SystemExit as stopped:
        code = stopped.code
    error = capsys.readouterr().err
    assert code == 2 and said in error and error.count("\n") == 1


def test_a_folder_that_is_no_export_is_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.json").write_text("{")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "hf").symlink_to(folder)
    for name, said in (
        ("absent", "absent is absent: give a Hugging Face folder; `python -m model export RUN FOLDER` writes one"),
        ("", "is no Hugging Face folder, as it has no config.json: `python -m model export RUN FOLDER` writes one"),
        ("damaged", "damaged/config.json cannot be read ("),
        ("run", f"is a run: give {tmp_path / 'run' / 'hf'}"),
    ):
        assert main(["suite", str(tmp_path / name), "--suite", "local"]) == 2
        error = capsys.readouterr().err
        assert said in error and "Errno" not in error and error.count("\n") == 1
