"""`python -m evaluate probe` on an export: a table, results on disk, and mistakes in one line."""

import json
from pathlib import Path

import pytest

from evaluate.__main__ import main
from evaluate.config import parse_config
from evaluate.tasks import build_tasks
from tests.evaluate.too_long import length_too_short_from

SETTINGS = ["num_samples=2", "max_new_tokens=8", "value_digits=2"]


def test_an_export_is_probed_at_two_lengths(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    tasks = ["task=niah_single_1,reverse", "length=400,600", "max_items=5"]
    assert (
        main(["probe", str(folder), *tasks, "--out", str(out), *SETTINGS]) == 0
    )  # settings on both sides of an option
    said = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0:3] for line in said[2:6]] == [
        ["| niah_single_1", "400", "2"],
        ["| niah_single_1", "600", "2"],
        ["| reverse", "400", "2"],
        ["| reverse", "600", "2"],
    ]
    assert (out / "table.md").read_text().splitlines() == said[:6]
    rows = [json.loads(line) for line in (out / "niah_single_1-600.jsonl").read_text().splitlines()]
    assert all(400 < row["tokens"] <= 600 and row["nll"] > 0 and row["answer_tokens"] <= 4 for row in rows)
    assert main(["probe", str(folder), "task=copy", "--out", str(out), *SETTINGS]) == 2
    assert "has results of other settings (max_items: 5 there, 100 here)" in capsys.readouterr().err


def test_yarn_changes_what_is_read_at_its_length_alone(folder: Path, tmp_path: Path) -> None:
    tasks = ["task=niah_single_1", "length=400,600", "generate=false"]

    def nll(name: str, *more: str) -> dict[int, list[float]]:
        out = tmp_path / name
        for _ in range(2):  # the second time continues, with no row to make
            assert main(["probe", str(folder), *tasks, *SETTINGS, *more, "--out", str(out)]) == 0
        lines = {length: (out / f"niah_single_1-{length}.jsonl").read_text().splitlines() for length in (400, 600)}
        return {length: [json.loads(line)["nll"] for line in of_length] for length, of_length in lines.items()}

    plain, stretched = nll("plain"), nll("stretched", "yarn=600:2")
    assert plain[400] == stretched[400] and plain[600] != stretched[600]


LATE = ["generate=false", "num_samples=3"]


@pytest.fixture
def two_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tasks are all that there are, and two samples are tried before a probe."""
    two = ("niah_single_3", "reverse")
    monkeypatch.setattr("evaluate.samples.NUM_TRIED", 2)
    monkeypatch.setattr("evaluate.probe.build_tasks", lambda config: {each: build_tasks(config)[each] for each in two})


@pytest.mark.usefixtures("two_tasks")
def test_a_task_that_turns_out_too_long_is_given_up_and_the_others_run(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    length = f"length={length_too_short_from(2, folder, parse_config(LATE))}"
    assert main(["probe", str(folder), length, *LATE, "--out", str(tmp_path / "all")]) == 0
    said = capsys.readouterr()
    (line,) = [each for each in said.err.splitlines() if each.startswith("left out: 1 of 3 samples of niah_single_3: ")]
    assert f"{length}: niah_single_3 takes " in line and line.endswith("the table has the mean of the other 2")
    table = (tmp_path / "all/table.md").read_text()
    assert set(table.splitlines()) <= set(said.out.splitlines())
    assert f"| niah_single_3 | {length[7:]} | 2 |" in table and f"| reverse | {length[7:]} | 3 |" in table

    named = ["task=niah_single_3,reverse", length, "--out", str(tmp_path / "named")]
    assert main(["probe", str(folder), *named, *LATE]) == 2
    error = capsys.readouterr().err
    assert "error: length=" in error and f"{tmp_path / 'named'} has 2 of 6 samples, and table.md of them" in error
    assert f"| niah_single_3 | {length[7:]} | 2 |" in (tmp_path / "named/table.md").read_text()


@pytest.mark.usefixtures("two_tasks")
def test_a_first_sample_that_is_too_long_is_known_before_anything_runs(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = ["task=reverse,niah_single_3", f"length={length_too_short_from(1, folder, parse_config(LATE))}"]
    assert main(["probe", str(folder), *named, *LATE, "--out", str(tmp_path / "out")]) == 2
    assert "niah_single_3 takes" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["task=cpoy"], "there is no such task; did you mean copy?"),
        (["tasks=copy"], "there is no key tasks; did you mean task?"),
        (["--lenght", "5"], "unrecognized arguments: --lenght"),
        (["haystack=absent.txt"], "haystack=absent.txt: No such file"),
        ([], "absent is absent: give a Hugging Face folder"),
    ],
)
def test_a_mistake_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    try:
        code: object = main(["probe", str(tmp_path / "absent"), *arguments])
    except SystemExit as stopped:
        code = stopped.code
    error = capsys.readouterr().err
    assert code == 2 and said in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["probe"], "error: the following arguments are required: SOURCE;"),
        (["prob", "runs/demo"], "error: there is no verb 'prob'; did you mean `python -m evaluate probe`?"),
        (["startlayers"], "did you mean `python -m evaluate start-layers`?"),
        (["xyzzy"], "error: there is no verb 'xyzzy': choose from probe, perplexity,"),
    ],
)
def test_what_is_to_be_typed_is_said(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    error = capsys.readouterr().err
    assert ended.value.code == 2 and said in error and error.count("\n") == 1


@pytest.mark.parametrize("verb", ["probe", "attention", "patterns", "ablate", "perplexity"])
def test_yarn_at_a_length_that_is_not_read_is_a_mistake(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    assert main([verb, str(folder), "yarn=99:2", "--out", str(tmp_path / "out")]) == 2
    assert "yarn has a factor for length 99, which is none of" in capsys.readouterr().err


def test_a_replication_without_a_size_says_which_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replicate"]) == 2
    assert capsys.readouterr().err == "error: give one size=NAME: cpu, gpu, tiny\n"
