"""Means with their errors, and folders that are gone on with."""

import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from evaluate.analyses.rows import complete_rows
from evaluate.config import parse_config
from evaluate.errors import EvaluateError
from evaluate.perplexity.documents import Document
from evaluate.perplexity.measure import Rows, Variant
from evaluate.probe import plan, run, settings_of
from evaluate.results import Mean, Results, Summary, csv_table, keep_settings, markdown, summary
from evaluate.samples import Samples
from tests.evaluate.models import Answering

SETTINGS = ["task=key_value", "length=200", "value_digits=3"]


def silent(task: str, length: int, done: int, total: int) -> None:
    """Reports nothing."""


def probed(model: Answering, folder: Path, *settings: str) -> list[Summary]:
    """Returns the summaries of one start."""
    config = parse_config([*SETTINGS, *settings])
    results = Results(folder, settings_of(config))
    summaries = [run(model, config, each, results, silent) for each in plan(model, config)[0]]
    results.write_tables()
    return summaries


def looks_up(prompt: str) -> str:
    """Returns the value of the key that the prompt ends with."""
    *lines, _, asked = prompt.split("\n")
    return " " + dict(line.split(": ") for line in lines)[asked.removesuffix(":")]


def test_standard_errors() -> None:
    spread = Mean.of([0.0, 0.0, 1.0, 1.0])
    assert spread.value == 0.5 and spread.error == pytest.approx(math.sqrt(1 / 3 / 4))
    assert Mean.of([3.0, 3.0]) == Mean(3.0, 0.0)
    assert math.isnan(Mean.of([3.0]).error)


def test_tables() -> None:
    summaries = [
        Summary("copy", 64, 4, Mean(50.0, 28.86751), Mean(1.23456, 0.1), 60.5),
        Summary("vt", 64, 1, None, Mean(2.0, math.nan), 64.0),
        Summary("cycle", 64, 9, None, Mean(0.7, 0.1), 63.0, Mean(60.0, 5.0)),
    ]
    assert markdown(summaries).splitlines()[2:] == [
        "| copy | 64 | 4 | 50.0 ± 28.9 | 1.235 ± 0.100 |  |",
        "| vt | 64 | 1 |  | 2.000 |  |",
        "| cycle | 64 | 9 |  | 0.700 ± 0.100 | 60.0 ± 5.0 |",
    ]
    assert csv_table(summaries).splitlines() == [
        "task,length,samples,score,score_se,nll,nll_se,tokens,choice,choice_se",
        "copy,64,4,50.0,28.86751,1.23456,0.1,60.5,,",
        "vt,64,1,,,2.0,nan,64.0,,",
        "cycle,64,9,,,0.7,0.1,63.0,60.0,5.0",
    ]


def test_samples_that_are_all_alike_are_no_certainty() -> None:
    nll = Mean(1.0, 0.0)
    summaries = [
        Summary("copy", 64, 20, Mean(100.0, 0.0), nll, 60.5),
        Summary("vt", 64, 500, Mean(0.0, 0.0), nll, 60.5),
        Summary("cycle", 64, 1, Mean(50.0, math.nan), nll, 60.5, Mean(100.0, math.nan)),
        Summary("fwe", 64, 7, Mean.of([100 / 3] * 7), nll, 60.5),
    ]
    assert [line.split(" | ")[3::2] for line in markdown(summaries).splitlines()[2:]] == [
        ["100.0 [86.1, 100.0]", " |"],
        ["0.0 [0.0, 0.6]", " |"],
        ["50.0 [2.5, 97.5]", "100.0 [5.0, 100.0] |"],
        ["33.3 [21.7, 56.5]", " |"],
    ]


def test_a_right_answer_is_chosen_where_it_is_more_likely_than_the_wrong_ones() -> None:
    row = {"score": None, "answer_tokens": 2, "tokens": 9}
    rows = [
        {**row, "nll": nll, "wrong_nll": wrong} for nll, wrong in ((1.0, [2.0, 1.5]), (1.0, [2.0, 0.5]), (1.0, [1.0]))
    ]
    assert summary("cycle", 64, rows).choice == Mean.of([100.0, 0.0, 0.0])
    assert summary("copy", 64, [{**row, "nll": 1.0}]).choice is None


def test_what_is_there_is_not_run_again(sample: Path, tmp_path: Path) -> None:
    model = Answering(sample / "tokenizer.json", looks_up)
    [first] = probed(model, tmp_path / "a", "num_samples=3")
    assert first.score == Mean(100.0, 0.0) and first.nll == Mean(1.0, 0.0) and model.num_asked == 3
    path = tmp_path / "a" / "key_value-200.jsonl"
    path.write_bytes(path.read_bytes()[:-20])  # killed within the last line
    probed(model, tmp_path / "a", "num_samples=5")
    assert model.num_asked == 3 + 3
    probed(Answering(sample / "tokenizer.json", looks_up), tmp_path / "b", "num_samples=5")
    again, at_once = ((tmp_path / name / "table.csv").read_text() for name in "ab")
    assert again == at_once and "key_value,200,5,100.0" in again


def test_rows_of_two_processes_count_once_and_those_of_other_code_not_at_all(sample: Path, tmp_path: Path) -> None:
    model = Answering(sample / "tokenizer.json", looks_up)
    probed(model, tmp_path, "num_samples=3")
    table, path = (tmp_path / "table.csv").read_text(), tmp_path / "key_value-200.jsonl"
    rows = path.read_text()
    path.write_text(rows + rows.splitlines(keepends=True)[1] + '{"index": 7}\n{}\n')
    (tmp_path / "notes-old.jsonl").write_text("{}\n")
    probed(model, tmp_path, "num_samples=3")
    assert (tmp_path / "table.csv").read_text() == table and model.num_asked == 3


def test_a_row_that_cannot_be_written_is_an_error(sample: Path, tmp_path: Path) -> None:
    model, config = Answering(sample / "tokenizer.json", looks_up), parse_config([*SETTINGS, "num_samples=2"])
    [planned], _ = plan(model, config)
    results = Results(tmp_path / "gone", {})
    shutil.rmtree(tmp_path / "gone")
    with pytest.raises(FileNotFoundError):
        run(model, config, planned, results, silent)
    with pytest.raises(FileNotFoundError):
        complete_rows(tmp_path / "gone" / "text-16.jsonl", 2, lambda index: {}, lambda done, total: None)
    document = Document("source", np.arange(8))
    with pytest.raises(FileNotFoundError):
        Rows(tmp_path / "gone").append(Variant(8), document, np.zeros(7))


def test_damaged_settings_are_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(EvaluateError, match=r"settings\.json is damaged"):
        keep_settings(tmp_path, {})


def test_other_settings_are_named_as_configs_have_them(tmp_path: Path) -> None:
    keep_settings(tmp_path, {"seed": 1, "length": None})
    with pytest.raises(EvaluateError, match=r"other settings \(length: null there, \[64, 128\] here\): give another"):
        keep_settings(tmp_path, {"seed": 1, "length": [64, 128]})


def test_every_sample_is_on_disk(sample: Path, tmp_path: Path) -> None:
    model = Answering(sample / "tokenizer.json", lambda prompt: "" if "a" in prompt[:20] else " 000")
    [found] = probed(model, tmp_path, "num_samples=2", "save_prompts=true")
    rows = [json.loads(line) for line in (tmp_path / "key_value-200.jsonl").read_text().splitlines()]
    assert [row["index"] for row in rows] == [0, 1] and all(row["score"] == 0 for row in rows)
    assert all(looks_up(row["prompt"]).strip() == row["gold"][0] for row in rows)
    assert found.score == Mean(0.0, 0.0) and found.num_tokens == sum(row["tokens"] for row in rows) / 2


def test_nothing_is_generated_on_request(sample: Path, tmp_path: Path) -> None:
    model = Answering(sample / "tokenizer.json", looks_up)
    [found] = probed(model, tmp_path, "num_samples=2", "generate=false")
    assert found.score is None and model.num_asked == 0 and found.nll.value == 1.0


def test_other_settings_need_another_folder(sample: Path, tmp_path: Path) -> None:
    model = Answering(sample / "tokenizer.json", looks_up)
    probed(model, tmp_path, "num_samples=1")
    with pytest.raises(EvaluateError, match=r"seed: 42 there, 7 here\): give another --out"):
        probed(model, tmp_path, "num_samples=1", "seed=7")


def test_tasks_that_do_not_fit_are_left_out_unless_they_are_named(sample: Path) -> None:
    model = Answering(sample / "tokenizer.json", looks_up)
    planned, left_out = plan(model, parse_config(["length=200"]))
    assert {"copy", "key_value"} <= {each.name for each in planned}
    assert len(left_out) == 1 and "niah_single_1 (" in left_out[0]
    with pytest.raises(EvaluateError, match="niah_single_1 takes"):
        plan(model, parse_config(["length=200", "task=niah_single_1"]))
    with pytest.raises(EvaluateError, match="no task fits: length=3: copy takes"):
        plan(model, parse_config(["length=3"]))


def test_tasks_that_are_left_out_share_a_line_for_each_reason(sample: Path) -> None:
    model = Answering(sample / "tokenizer.json", looks_up)
    generation, prompts = plan(model, parse_config(["length=512"]))[1]
    assert "niah_single_3 (" in generation and generation.count("max_new_tokens=") == 1
    assert "vt (" in prompts and "cwe (" in prompts and prompts.count("length=") == 2 and "max_new" not in prompts
    lower, longer = re.findall(r"max_new_tokens=\d+", generation), re.findall(r"; (length=\d+) fits all", prompts)
    assert not any(" niah_single_3 (" in why for why in plan(model, parse_config(["length=512", *lower]))[1])
    assert plan(model, parse_config(longer))[1] == []
    *_, few = plan(model, parse_config(["length=512", "value_digits=1", "num_needles=12"]))[1]
    assert few.startswith("niah_multikey_1 at length=512, niah_multivalue at length=512, niah_multiquery at")
    assert few.count("value_digits is too small") == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["task=niah_single_1", "value_digits=2", "length=300"], r"left for .*max_new_tokens=\d+ or less"),
        (["task=niah_multiquery", "length=300"], "a smaller value_digits or num_needles, or other"),
        (
            ["task=niah_single_2", "generate=false", "value_digits=1", "length=300"],
            r"answer \d+; give length=\d+ or more, or",
        ),
        (["task=fwe", "length=200"], "a smaller coded_letters"),
        (["task=table_cell_cells", "num_columns=2", "length=200"], "or more, or other tasks"),
    ],
)
def test_what_takes_the_room_is_said_with_advice_that_works(sample: Path, settings: list[str], said: str) -> None:
    model = Answering(sample / "tokenizer.json", looks_up)
    with pytest.raises(EvaluateError, match=said) as caught:
        plan(model, parse_config([*settings, "num_samples=5"]))
    given = re.findall(r"(length=\d+|max_new_tokens=\d+) or (?:more|less)", str(caught.value))
    for advice in given:
        advised = [*(each for each in settings if not each.startswith(advice[:6])), advice, "num_samples=5"]
        [planned], _ = plan(model, parse_config(advised))
        assert all(planned.samples[index].num_tokens <= planned.length for index in range(5))
    assert given


def test_without_generation_the_room_is_the_answers(sample: Path, tmp_path: Path) -> None:
    model = Answering(sample / "tokenizer.json", looks_up)

    def planned(*settings: str) -> Samples:
        return plan(model, parse_config(["task=niah_single_1", "length=600", *settings]))[0][0].samples

    alone, generated = planned("generate=false")[0], planned()[0]
    assert alone.num_tokens == len(alone.prompt) + len(alone.answer) and alone.size > generated.size
    same = ("max_new_tokens=20", "generate=false"), ("max_new_tokens=20",)
    assert planned(*same[0])[0] == planned(*same[1])[0]
    probed(model, tmp_path, "num_samples=1", "generate=false")
    assert json.loads((tmp_path / "settings.json").read_text())["reserved"] == "answer"
    with pytest.raises(EvaluateError, match=r"generate: false there, true here\): give another --out"):
        probed(model, tmp_path, "num_samples=1")
