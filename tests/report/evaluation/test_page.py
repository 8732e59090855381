"""The page of evaluations, of folders that are made by hand."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from evaluate.__main__ import main
from report.drawing import Axis
from report.errors import ReportError
from report.evaluation.ablation import REPLACEMENTS
from report.evaluation.attention import PARTS
from report.evaluation.folder import open_folders
from report.evaluation.page import evaluation_page
from report.evaluation.patterns import KINDS, OF_TEXT
from report.evaluation.scores import difference_rows

HEADER = "task,length,samples,score,score_se,nll,nll_se,tokens\n"


def folder_of(path: Path, *rows: str) -> Path:
    path.mkdir(parents=True)
    (path / "table.csv").write_text(HEADER + "".join(f"{row}\n" for row in rows))
    return path


def test_two_models_stand_side_by_side_with_their_errors(tmp_path: Path) -> None:
    hostile = folder_of(tmp_path / "<b>rope", "copy,256,20,50.0,5.0,1.5,0.25,200", "copy,128,20,75.0,4.0,1.25,nan,100")
    repo = folder_of(
        tmp_path / "repo", "copy,256,20,60.0,2.5,1.0,0.125,200", "vt,256,1,,,2.0,nan,200", "copy,192,9,1,1,1,1,9"
    )
    text = evaluation_page(open_folders([hostile, repo]))
    assert "<b>rope" not in text and text.count("<script") == 0
    points = re.findall(r"<circle[^>]*><title>([^<]*)</title>", text)
    assert "&lt;b&gt;rope, 256: 50.0 ± 5.0" in points and "repo, 256: 60.0 ± 2.5" in points
    assert "repo, 256: 2.000" in points  # one sample has no error
    assert "<td>vt</td><td>256</td><td>repo</td><td>1</td><td></td><td>2.000</td>" in text
    labels = re.findall(r"text-anchor='middle'>(\d+)</text>", text)
    assert labels[:3] == ["128", "192", "256"]  # by length, not as the table has them


def test_folders_of_one_name_are_told_apart(tmp_path: Path) -> None:
    paths = [folder_of(tmp_path / own / "demo", "copy,128,2,1.0,1.0,1.0,1.0,9") for own in ("first", "second")]
    assert [each.name for each in open_folders(paths)] == ["first/demo", "second/demo"]
    assert len({each.color for each in open_folders(paths)}) == 2


def test_the_verb_writes_the_page_and_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(tmp_path / "demo", "copy,128,2,1.0,1.0,1.0,1.0,9")
    assert main(["page", str(folder)]) == 0
    assert "copy: score" in (folder / "page.html").read_text()
    (tmp_path / "empty").mkdir()
    for wrong, said in ((["empty"], "has no results"), (["absent"], "is no folder"), (["demo", "demo"], "twice")):
        capsys.readouterr()
        assert main(["page", *(str(tmp_path / each) for each in wrong)]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1


def test_scores_are_compared_by_question(tmp_path: Path) -> None:
    paths = []
    models = {"rope": ((0.0, 0.5, 1.0), "abc", 5.0), "repo": ((0.5, 1.0, 0.0), "abx", 9.0)}
    for name, (scores, golds, wrong) in models.items():
        paths.append(folder_of(tmp_path / name, "copy,128,3,1.0,1.0,1.0,1.0,9"))
        rows = [
            {"index": i, "gold": [gold], "score": score, "nll": 4.0 + 4 * i, "answer_tokens": 4, "wrong_nll": [wrong]}
            for i, (score, gold) in enumerate(zip(scores, golds, strict=True))
        ]
        (paths[-1] / "copy-128.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert difference_rows(open_folders(paths), [("copy", "128")]) == [
        # The third question is another.
        ["copy", "128", "repo - rope", "2", "50.0 [-66.5, 88.8]", "0.000 ± 0.000", "50.0 ± 50.0"]
    ]


def test_questions_of_other_settings_are_not_called_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"index": 0, "gold": ["a"], "score": 1.0, "nll": 2.0, "answer_tokens": 1}

    def compared(*settings: dict[str, Any]) -> tuple[str, str]:
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        folders = [folder_of(root / str(k), "copy,128,1,1.0,1.0,1.0,1.0,9") for k in range(len(settings))]
        for folder, own in zip(folders, settings, strict=True):
            (folder / "copy-128.jsonl").write_text(json.dumps(row))
            (folder / "settings.json").write_text(json.dumps({"seed": 42, "weights": folder.name} | own))
        assert main(["page", *map(str, folders)]) == 0
        return capsys.readouterr().err, (folders[0] / "page.html").read_text()

    error, text = compared({"value_digits": 2}, {"value_digits": 2})
    assert not error and "The same questions" in text and "Paired differences" in text
    error, text = compared({"value_digits": 2}, {"value_digits": 3})
    said = "ettings differ: value_digits 2 and 3: not the same questions"
    assert error == f"WARNING: s{said}\n" and f"S{said}." in text
    assert "The same questions" not in text and "Paired differences" not in text


def test_questions_that_all_have_one_score_are_no_certainty(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "demo", "copy,128,20,100.0,0.0,1.5,0.25,9", "copy,256,1,0.0,nan,1.5,nan,9")
    text = evaluation_page(open_folders([folder]))
    assert "<td>100.0 [86.1, 100.0]</td><td>1.500 ± 0.250</td>" in text and "<td>0.0 [0.0, 95.0]</td>" in text
    assert "<title>demo, 128: 100.0</title>" in text and "100.0 ±" not in text


def test_shares_have_an_axis_from_zero(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "demo", "copy,128,9,0.0,0.0,,,9")
    assert re.findall(r"text-anchor='end'>([^<]*)<", evaluation_page(open_folders([folder]))) == [
        *("0", "0.2", "0.4", "0.6", "0.8", "1")
    ]
    folder = folder_of(tmp_path / "other", "copy,128,9,1.0,2.0,,,9")  # an error bar ends at the axis
    text = evaluation_page(open_folders([folder]))
    assert re.findall(r"text-anchor='end'>([^<]*)<", text)[0] == "0"
    zero = f"{Axis(0.0, 1.0, from_zero=True).y(0.0):.1f}"
    assert re.search(rf"y1='{zero}' y2='[\d.]+' stroke='#1f6f78' stroke-width='2'", text)


def test_damaged_numbers_are_left_out(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "demo", "copy,many,2,1.0,1.0,1.0,1.0,9", "copy,128,2,x,inf,1.0,1.0")
    assert "copy: score" not in (text := evaluation_page(open_folders([folder]))) and "copy: NLL" in text
    (folder / "table.csv").write_text("")
    with pytest.raises(ReportError, match="has no results"):
        evaluation_page(open_folders([folder]))


GOOD_ROWS: dict[str, dict[str, Any]] = {
    "copy-128.jsonl": {"index": 0, "gold": ["a"], "score": 1.0, "nll": 2.0, "answer_tokens": 1},
    "attention/copy-128.jsonl": {
        "index": 0,
        "tokens": 9,
        "counts": dict.fromkeys(PARTS, 2),
        "mass": {part: [[0.25]] for part in PARTS},
    },
    "patterns/text-128.jsonl": {"index": 0, **{kind: {name: [[0.5]] for name in OF_TEXT} for kind in KINDS}},
    "ablation/text-128.jsonl": {"index": 0, "nll": 2.0, "replaced": {by: {"0": 2.5} for by in REPLACEMENTS}},
}


def test_rows_of_other_code_and_files_of_other_names_are_left_out(tmp_path: Path) -> None:
    def written(name: str, *more: str) -> str:
        folders = []
        for own in ("rope", "repo"):
            folders.append(folder_of(tmp_path / name / own, "copy,128,1,1.0,1.0,1.0,1.0,9"))
            for file, row in GOOD_ROWS.items():
                path = folders[-1] / file
                path.parent.mkdir(exist_ok=True)
                good = json.dumps(row)
                wrong: tuple[Any, ...] = (None, "x", {}, True)
                changed = [json.dumps({**row, key: value}) for key in row for value in wrong]
                missing = [json.dumps({each: row[each] for each in row if each != key}) for key in row]
                path.write_text("\n".join([*(changed + missing if more else [good]), good]))
                if more:
                    path.with_name(f"{path.stem}x.jsonl").write_text(good)
                    (path.parent / "settings.json").write_text(more[0])
        return evaluation_page(open_folders(folders))

    expected = written("good")
    assert expected.count("<section>") == 4
    for number, settings in enumerate(("[]", '{"schemes": 3, "layers": []}')):
        assert written(str(number), settings) == expected


def test_positions_that_are_no_numbers_are_not_drawn(tmp_path: Path) -> None:
    for kind in ("none", "some"):
        folder = tmp_path / kind
        (folder / "patterns").mkdir(parents=True)
        row = GOOD_ROWS["patterns/text-128.jsonl"]
        broken = {**row, "text": {name: [[math.nan]] for name in OF_TEXT}}
        rows = [broken] if kind == "none" else [row, {**broken, "index": 1}]
        (folder / "patterns/text-128.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in rows))
        text = evaluation_page(open_folders([folder]))
        assert ("no range is a number above 0" in text) == (kind == "none")


def test_a_table_that_is_not_text_is_no_table(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "demo", "copy,128,2,1.0,1.0,1.0,1.0,9")
    with (folder / "table.csv").open("ab") as file:
        file.write(b"\xff\xfe\x00\n")
    assert "copy: score" in evaluation_page(open_folders([folder]))


def test_a_run_is_no_folder_of_evaluations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("runs/demo", "evaluations/demo-step-0000010", "evaluations/demo-step-0000020"):
        Path(name).mkdir(parents=True)
    Path("runs/demo/config.yaml").write_text("name: demo\n")
    for said in ("give evaluations/demo-step-0000020", "give evaluations/demo-hf"):
        assert main(["page", "runs/demo"]) == 2
        assert f"runs/demo is a run, and no folder of evaluations: {said}\n" in capsys.readouterr().err
        Path("evaluations/demo-hf").mkdir(exist_ok=True)
    Path("evaluations").rename("elsewhere")
    assert main(["page", "runs/demo"]) == 2 and not Path("runs/demo/page.html").exists()
    assert "`python -m evaluate probe runs/demo` makes one" in capsys.readouterr().err
