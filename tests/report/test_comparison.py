"""Runs side by side: what differs, what they reach at equal tokens, and the noise over seeds."""

import csv
import io
import json
from pathlib import Path

import pytest
import yaml

from report.comparison import ABSENT, compare, differing, flat
from report.comparison_page import comparison_data
from report.comparison_table import csv_table, text_table
from report.errors import ReportError
from report.metrics import probe_nll
from report.page import write_page
from report.run_folder import RunFiles
from tests.report.browser import Browser
from tests.report.folders import make_run

CONFIG = {"name": "x", "seed": 1, "max_steps": 9, "optimizer": {"lr": 1e-3, "eps": 1e-8}, "wandb": {"group": "g"}}


def made(root: Path, name: str, num_steps: int, shift: float, **config: object) -> RunFiles:
    """A run whose loss is that of `tests.report.folders` plus `shift`."""
    folder = make_run(root / name, range(1, num_steps + 1), events=[{"event": "start", "world_size": 2}])
    rows = folder.read_metrics()
    for row in rows:
        row["train/ce_loss"] += shift
        row["throughput/step_seconds"] = 1.8
        if row["step"] % 10 == 0:
            row["eval/loss"] = 2 + shift + 1 / row["step"]
            row |= {probe_nll("copy", length): shift + length for length in (128, 64)}
    folder.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder.config.write_text(yaml.safe_dump({**CONFIG, "name": name, "wandb": {"group": name}, **config}))
    return folder


def test_runs_are_compared_at_the_last_validation_that_all_have(tmp_path: Path) -> None:
    short = made(tmp_path, "short", 25, 0.5)
    long = made(tmp_path, "long", 200, 0.0, optimizer={"lr": 3e-3, "eps": 1e-8})
    found = compare([short, long])
    assert found.tokens == 1024 * 20 and found.is_evaluated and found.keys == ["optimizer.lr"]
    best, other = found.runs
    assert (best.name, best.differs) == ("long", {"optimizer.lr": 3e-3}) and other.differs == {"optimizer.lr": 1e-3}
    assert best.eval_loss == pytest.approx(2.05) and other.eval_loss == pytest.approx(2.55)  # of step 20
    assert best.loss == pytest.approx(3 + sum(1 / step for step in range(11, 21)) / 10)
    assert best.process_hours == pytest.approx(2 * 200 * 1.8 / 3600) and best.overview.step == 200


def test_a_run_cut_off_before_its_validation_is_not_held_against_newer_ones_of_others(tmp_path: Path) -> None:
    cut, whole = made(tmp_path, "cut", 30, 0.0), made(tmp_path, "whole", 30, 0.0, optimizer={"lr": 3e-3, "eps": 1e-8})
    rows = cut.read_metrics()
    del rows[-1]["eval/loss"]
    cut.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = compare([cut, whole])
    assert found.tokens == 1024 * 20 and found.runs[0].eval_loss == found.runs[1].eval_loss


def test_without_an_evaluation_by_then_of_every_run_the_training_loss_ranks(tmp_path: Path) -> None:
    early, late = made(tmp_path, "early", 9, 0.0), made(tmp_path, "late", 90, 0.1, seed=2)
    found = compare([late, early])
    assert not found.is_evaluated and [run.name for run in found.runs] == ["early", "late"]
    assert [run.eval_loss for run in found.runs] == [None, None]
    assert "by mean training loss" in text_table(found) and "eval loss" not in text_table(found)


def test_runs_that_differ_in_the_seed_alone_are_one_setting_with_a_spread(tmp_path: Path) -> None:
    shifts = {("a", 1): 0.0, ("a", 2): 0.2, ("b", 1): 0.3, ("b", 2): 0.3}
    runs = [
        made(tmp_path, f"{scheme}{seed}", 20, shift, seed=seed, positions={"scheme": scheme})
        for (scheme, seed), shift in shifts.items()
    ]
    found = compare(runs)
    assert found.keys == ["positions.scheme", "seed"]
    first, second = found.settings
    assert first.differs == {"positions.scheme": "a"} and len(first.runs) == 2
    assert first.mean == pytest.approx(2.15) and first.spread == pytest.approx(0.2 / 2**0.5)
    assert second.mean == pytest.approx(2.35) and second.spread == pytest.approx(0)
    table = text_table(found).splitlines()
    assert table[-1].startswith(
        "1 of 2 settings have the same loss with every seed, which is no noise: nothing in these"
    )
    assert table[table.index("over seeds") + 2].split() == ["a", "2", "2.1500", "0.1414", "+0.0000"]
    rows = list(csv.DictReader(io.StringIO(csv_table(found))))
    assert [row["run"] for row in rows] == ["a1", "a2", "b1", "b2"] and float(rows[1]["eval_loss"]) == 2.25


def test_values_are_shown_as_configs_have_them(tmp_path: Path) -> None:
    runs = [
        made(tmp_path, "one", 20, 0.0, positions={"start_layer": None}, mask_documents=False),
        made(tmp_path, "two", 20, 0.1, positions={"start_layer": 0}, mask_documents=True),
    ]
    found = compare(runs)
    assert found.keys == ["mask_documents", "positions.start_layer"]
    assert [row.split()[-2:] for row in text_table(found).splitlines()[2:4]] == [["false", "null"], ["true", "0"]]
    rows = list(csv.DictReader(io.StringIO(csv_table(found))))
    assert [(row["positions.start_layer"], row["mask_documents"]) for row in rows] == [("null", "false"), ("0", "true")]
    made(tmp_path, "again", 20, 0.2, positions={"start_layer": None}, mask_documents=False, seed=2)
    settings = text_table(compare([*runs, RunFiles(tmp_path / "again")])).splitlines()
    assert any(line.split()[:3] == ["false", "null", "2"] for line in settings)


def test_keys_that_change_nothing_are_not_compared_and_absent_ones_are_said() -> None:
    one, other = flat({**CONFIG, "data": {"sources": {}}}), flat({"name": "y", "seed": 1, "max_steps": 9})
    assert differing([one, other]) == ["optimizer.lr", "optimizer.eps", "data.sources"]
    assert differing([one, one]) == []
    assert other.get("optimizer.lr", ABSENT) == ABSENT


def test_what_cannot_be_compared_is_one_sentence(tmp_path: Path) -> None:
    run = made(tmp_path, "run", 3, 0.0)
    (tmp_path / "empty").mkdir()
    for folders, problem in (
        ([run], "two runs or more"),
        ([run, RunFiles(tmp_path / "none")], "there is no run folder"),
        ([run, RunFiles(tmp_path / "empty")], "has no step to compare"),
        ([run, RunFiles(tmp_path / "empty" / ".." / "run")], "is named twice"),
    ):
        with pytest.raises(ReportError, match=problem):
            compare(folders)


def test_runs_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    runs = [made(tmp_path / parent, "demo", 3, shift) for parent, shift in (("x", 0.0), ("y", 0.1))]
    assert [run.name for run in compare(runs).runs] == ["x/demo", "y/demo"]


@pytest.mark.system
def test_the_page_draws_a_curve_per_run_and_shows_hostile_names_as_text(browser: Browser, tmp_path: Path) -> None:
    hostile = "<img src=x onerror='window.hacked = 1'>"
    runs = [made(tmp_path, name, 60, shift, seed=seed) for seed, (name, shift) in enumerate([(hostile, 0.1), ("b", 0)])]
    page, other = tmp_path / "compared.html", tmp_path / "without-seeds.html"
    write_page(comparison_data(compare(runs), "two runs"), page, "comparison")
    rates = [made(tmp_path, f"{lr}", 5, lr, optimizer={"lr": lr}) for lr in (0.1, 0.2)]
    write_page(comparison_data(compare(rates), "rates"), other, "comparison")
    many, crowd = tmp_path / "many.html", [made(tmp_path, f"run-{number}", 5, 0.0) for number in range(9)]
    write_page(comparison_data(compare(crowd), "many"), many, "comparison")
    legends = "document.querySelectorAll('#steps .plot .legend').length"
    browser.open(many)
    borders = "[...document.querySelectorAll('.swatch')].map(one => getComputedStyle(one).borderTopStyle)"
    assert browser.ask(borders) == ["solid"] * 8 + ["dashed"] and browser.ask(legends) == 0
    browser.open(other)
    hidden = "['settings', 'probes'].every(section => document.getElementById(section).hidden)"
    assert browser.ask(hidden) and browser.console_messages() == []
    browser.open(page)
    assert browser.text("h1") == "two runs" and "61,440 tokens" in browser.text("#summary")
    cells = "[...document.querySelectorAll('#run-table td:first-child')].map(cell => cell.textContent)"
    assert browser.ask(cells) == ["b", hostile]
    headings = "[...document.querySelectorAll('th')].map(cell => cell.textContent)"
    explained = "[...document.querySelectorAll('#columns b')].map(cell => cell.textContent)"
    assert set(browser.ask(headings)) - set(browser.ask(explained)) == {"run", "seed"}
    assert browser.ask("[...document.querySelectorAll('.grid > figure > .note')].every(note => note.textContent)")
    drawn = "[...document.querySelectorAll('#steps .plot')].map(plot => plot.data.length)"
    assert set(browser.ask(drawn)) == {2} and browser.ask(legends) > 0
    assert not browser.ask("document.getElementById('settings').hidden")
    assert browser.ask("document.querySelectorAll('#probes .main-svg').length") >= 2
    titles = "[...document.querySelectorAll('#probes figcaption span')].map(span => span.textContent)"
    labels = [f"copy, {length} tokens: NLL of right answers" for length in (64, 128)]
    assert browser.ask(titles) == labels
    drawn = "[...document.querySelectorAll('#probes .plot')].map(plot => plot.data.map(run => run.y[0]))"
    assert browser.ask(drawn) == [[pytest.approx(length + 0.1), length] for length in (64, 128)]
    browser.choose("over", 1)
    assert browser.eventually("document.querySelectorAll('#tokens .main-svg').length > 0")
    assert browser.ask("document.querySelector('#tokens .plot').data[0].x.at(-1)") == 61440
    assert browser.ask("window.hacked === undefined") and browser.console_messages() == []
