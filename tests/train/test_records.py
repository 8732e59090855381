"""metrics.jsonl and events.jsonl are only appended to, and what a checkpoint covers comes back whatever they lose."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from common.json_lines import read_json_lines
from tests.common.test_json_lines import files_of_at_most
from tests.train.callbacks.wandb_files import finished_runs
from tests.train.conftest import NUM_STEPS, Runs
from tests.train.probe import events, metrics
from train.checkpoint.store import Checkpoint, checkpoint_folders, read_checkpoint
from train.records import drop_later_rows, durable_records, mend_records
from train.run_folder import RunFolder

STEP = 6  # of the checkpoint that the run continues from; the newest is of step 8


@pytest.fixture
def folder(crashes: Runs, tmp_path: Path) -> RunFolder:
    """A run with checkpoints of steps 6 and 8."""
    return RunFolder(shutil.copytree(crashes.folder("crashed").path, tmp_path / "run"))


def checkpoint(folder: RunFolder, step: int = STEP) -> Checkpoint:
    return read_checkpoint(folder.checkpoints / f"step-{step:07d}")


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines(keepends=True)


def change(number: int, old: str, new: str) -> Callable[[list[str]], str]:
    """Replaces text in one line."""

    def changed(rows: list[str]) -> str:
        assert old in rows[number]
        return "".join([*rows[:number], rows[number].replace(old, new, 1), *rows[number + 1 :]])

    return changed


DAMAGES: dict[str, Callable[[list[str]], str]] = {
    "emptied": lambda rows: "",
    "truncated": lambda rows: "".join(rows)[: len("".join(rows[:4])) + 20],
    "zeros": lambda rows: "".join(rows[:4]) + "\0" * 500,
    "first lines lost": lambda rows: "".join(rows[3:]),
    "a line that is a number": lambda rows: "".join([*rows[:2], "5\n", *rows[2:]]),
    "a line that is null": lambda rows: "null\n" + "".join(rows),
    "a bit of a key": change(2, '"step"', '"rtep"'),
    "a bit of a step": change(2, '"step": 3', '"step": 7'),
    "a step that is text": change(2, '"step": 3', '"step": "3"'),
    "a bit of a number": change(2, "0.", "1."),
    "not UTF-8": change(2, '"step": 3', '"step": 3, "\udcff": 1'),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_metrics_are_restored_from_the_checkpoint_in_one_line(
    folder: RunFolder, damage: Callable[[list[str]], str], capsys: pytest.CaptureFixture[str]
) -> None:
    whole = lines(folder.metrics)
    folder.metrics.write_text(damage(whole), errors="surrogateescape")
    damaged = folder.metrics.read_bytes().splitlines(keepends=True)
    mend_records(folder, checkpoint(folder))
    mended = lines(folder.metrics)
    assert mended[:STEP] == whole[:STEP] and set(mended) <= set(whole)
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{folder.metrics} is damaged; ")
    aside = folder.path / "metrics-unreadable.txt"
    moved = aside.read_bytes().splitlines() if aside.exists() else []
    assert sorted(moved) == sorted(row.rstrip(b"\n") for row in damaged if row.decode(errors="replace") not in whole)
    repair = folder.last_event() or {}
    assert (repair["event"], repair["file"], repair["unreadable"]) == ("repair", "metrics.jsonl", len(moved))
    mend_records(folder, checkpoint(folder))
    assert capsys.readouterr().out == "" and lines(folder.metrics) == mended  # said once


@pytest.mark.parametrize("damage", ["emptied", "truncated", "a line that is a number", "a bit of a step"])
def test_damaged_events_are_restored_and_new_ones_stay_behind_them(
    folder: RunFolder, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = lines(folder.events)
    damaged = change(2, '"step": 4', '"step": 6') if damage == "a bit of a step" else DAMAGES[damage]
    folder.events.write_text(damaged(whole))
    folder.log_event("alert", step=8, damage="noticed before the repair")
    covered = lines(checkpoint(folder).folder / "events.jsonl")
    mend_records(folder, checkpoint(folder))
    mended = lines(folder.events)
    assert mended[: len(covered)] == covered == whole[: len(covered)]
    assert ["noticed before the repair" in line for line in mended[-2:]] == [True, False]
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{folder.events} is damaged; ")


def test_a_lost_line_does_not_make_a_later_event_of_the_same_length_an_altered_one(folder: RunFolder) -> None:
    covered = lines(checkpoint(folder).folder / "events.jsonl")
    event = json.loads(covered[-1])
    later = json.dumps(event | {"time": event["time"][::-1]}) + "\n"
    assert len(later) == len(covered[-1])
    folder.events.write_text("".join([*covered[1:], later]))  # so that it stands in the other one's place
    mend_records(folder, checkpoint(folder))
    assert lines(folder.events)[: len(covered) + 1] == [*covered, later]
    assert not (folder.path / "events-unreadable.txt").exists()


def test_records_that_an_editor_gave_other_line_ends_are_whole(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = lines(folder.metrics)[:STEP]
    folder.metrics.write_bytes("".join(whole).replace("\n", "\r\n").encode())
    mend_records(folder, checkpoint(folder))
    assert folder.metrics.read_bytes() == "".join(whole).encode()
    assert capsys.readouterr().out == "" and not (folder.path / "metrics-unreadable.txt").exists()


def test_without_a_checkpoint_what_cannot_be_read_is_moved_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics.write_text('{"step": 1}\n5\n{"step": 2}\n{"st')
    mend_records(folder, None)
    assert read_json_lines(folder.metrics) == [{"step": 1}, {"step": 2}]
    assert (tmp_path / "metrics-unreadable.txt").read_text() == '5\n{"st\n'
    assert (
        capsys.readouterr().out == f"{folder.metrics} is damaged; unreadable lines moved to metrics-unreadable.txt: 2\n"
    )


def test_rows_of_steps_that_are_done_again_are_cut_off_and_nothing_else_is_written(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    drop_checkpoint_events(folder, above=STEP)
    before, kept, file = folder.metrics.stat(), lines(folder.metrics)[:STEP], folder.metrics.open()
    mend_records(folder, checkpoint(folder))
    drop_later_rows(folder, STEP)
    assert file.readlines() == kept and folder.metrics.stat().st_ino == before.st_ino  # the same file, cut
    modified = folder.metrics.stat().st_mtime_ns
    drop_later_rows(folder, STEP)
    assert folder.metrics.stat().st_mtime_ns == modified
    assert capsys.readouterr().out == "" and not (folder.path / "metrics-superseded.jsonl").exists()


def drop_checkpoint_events(folder: RunFolder, *, above: int) -> None:
    """What events.jsonl holds when the run is killed before checkpoints after this step."""
    own = [row for row in lines(folder.events) if '"checkpoint"' not in row or json.loads(row)["step"] <= above]
    folder.events.write_text("".join(own))


@pytest.mark.parametrize(
    ("step", "has_events", "said"),
    [
        (STEP, True, "continues from step 6, although a checkpoint of step 8 was saved: the 2 rows of later steps"),
        (0, True, "begins at step 0, although a checkpoint of step 8 was saved: the 8 rows that were"),
        (0, False, "begins at step 0: the 8 rows that were"),
    ],
)
def test_rows_that_a_deleted_checkpoint_covered_are_moved_aside_and_this_is_said(
    folder: RunFolder, step: int, has_events: bool, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = lines(folder.metrics)
    if not has_events:
        folder.events.unlink()
    drop_later_rows(folder, step)
    assert lines(folder.metrics) == rows[:step]
    assert lines(folder.path / "metrics-superseded.jsonl") == rows[step:]
    assert capsys.readouterr().out == (f"{folder.path} {said} in metrics.jsonl are moved to metrics-superseded.jsonl\n")


LIVE_DAMAGES: dict[str, Callable[[list[str]], str]] = {
    "emptied": lambda rows: "",
    "first line lost": lambda rows: "".join(rows[1:]),
    "a row since the checkpoint lost": lambda rows: "".join([*rows[:-2], rows[-1]]),
    "a bit of a number": change(1, "0.", "1."),
    "a bit of a number since the checkpoint": change(STEP, "0.", "1."),
}


def without_later_checkpoint(folder: RunFolder) -> list[str]:
    """Takes the folder back to the checkpoint of STEP; returns all rows that it had, for those since to be logged."""
    shutil.rmtree(checkpoint(folder, 8).folder)
    folder.events.unlink()  # what was said of the checkpoint of step 8
    rows = lines(folder.metrics)
    drop_later_rows(folder, STEP)
    return rows


@pytest.mark.parametrize("damage", LIVE_DAMAGES.values(), ids=LIVE_DAMAGES)
def test_a_record_that_is_damaged_while_the_run_is_live_is_mended_before_the_next_checkpoint_copies_it(
    folder: RunFolder, damage: Callable[[list[str]], str], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = without_later_checkpoint(folder)
    for row in rows[STEP:]:
        folder.log_metrics(json.loads(row))
    assert lines(folder.metrics) == rows and durable_records(folder)["metrics.jsonl"] == "".join(rows).encode()
    assert capsys.readouterr().out == ""  # nothing is wrong so far
    drop_later_rows(folder, STEP)
    for row in rows[STEP:]:
        folder.log_metrics(json.loads(row))
    folder.metrics.write_text(damage(lines(folder.metrics)))
    assert durable_records(folder)["metrics.jsonl"] == "".join(rows).encode()
    assert lines(folder.metrics) == rows
    [said] = capsys.readouterr().out.splitlines()
    assert said.startswith(f"{folder.metrics} is damaged; ")
    assert (folder.last_event() or {})["event"] == "repair"


@pytest.mark.parametrize("num_failed", [1, 2])
def test_rows_that_only_a_failed_save_covered_come_back_from_memory(
    folder: RunFolder, num_failed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = without_later_checkpoint(folder)
    for row in rows[STEP:]:
        folder.log_metrics(json.loads(row))
        for _ in range(num_failed):
            durable_records(folder)  # of a save that does not publish anything, because the disk is full
    folder.metrics.write_text("")
    assert durable_records(folder)["metrics.jsonl"] == "".join(rows).encode()
    assert lines(folder.metrics) == rows
    [said] = capsys.readouterr().out.splitlines()
    assert "lines restored from step-0000006: 6; lines restored from memory: 2" in said
    folder.forget_saved_records()  # that save is published, but its checkpoint is lost later
    folder.metrics.write_text("")
    assert durable_records(folder)["metrics.jsonl"] == "".join(rows[:STEP]).encode()


def test_a_record_that_cannot_be_mended_on_a_full_disk_is_mended_by_the_next_save(
    folder: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    rows = without_later_checkpoint(folder)
    for row in rows[STEP:]:
        folder.log_metrics(json.loads(row))
    folder.metrics.write_text("")
    with files_of_at_most(10):
        assert "metrics.jsonl" not in durable_records(folder)
    assert "has lost lines and could not be mended (" in caplog.text
    folder.forget_saved_records()  # even if that save is published
    assert durable_records(folder)["metrics.jsonl"] == "".join(rows).encode()
    assert lines(folder.metrics) == rows


def test_rows_that_no_checkpoint_has_are_rebuilt_from_the_file_of_wandb(
    stages: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = stages.folder("wandb-stopped")
    finished_runs(whole.wandb)
    folder = RunFolder(shutil.copytree(whole.path, tmp_path / "run"))
    before = folder.read_metrics()
    saved = read_checkpoint(checkpoint_folders(folder.checkpoints)[0])
    old = dataclasses.replace(saved, files={n: r for n, r in saved.files.items() if n != "metrics.jsonl"})
    folder.metrics.write_text("".join(lines(folder.metrics)[3:6]))
    mend_records(folder, old)  # as of version 0.1.0
    after = folder.read_metrics()
    assert [row["step"] for row in after] == list(range(1, NUM_STEPS + 1))
    for first, second in zip(before, after, strict=True):
        lists = {name for name, value in first.items() if isinstance(value, list)}
        assert second == first or {name: value for name, value in first.items() if name not in lists} == second
    assert any("positions/layer_" in name for name in after[0])
    assert capsys.readouterr().out == (
        f"{folder.metrics} lacks 5 rows, and {saved.folder.name} has no copy of them; rebuilt from W&B's file, without "
        "the figures of single heads: 5\n"
    )
    repair = folder.last_event() or {}
    assert (repair["event"], repair["missing"], repair["rebuilt"]) == ("repair", 5, 5)
    mend_records(folder, old)
    assert capsys.readouterr().out == "" and folder.read_metrics() == after


def test_what_a_checkpoint_covers_is_on_the_disk_before_it_is_published(
    crashes: Runs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for folder in checkpoint_folders(crashes.folder("crashed").checkpoints):
        saved = read_checkpoint(folder)
        assert {"metrics.jsonl", "events.jsonl"} <= saved.files.keys()  # flushed, and digested, by the writer
        assert [row["step"] for row in read_json_lines(folder / "metrics.jsonl")] == list(range(1, saved.step + 1))
    flushed, flush = [], os.fsync

    def fsync(descriptor: int) -> None:
        flushed.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    run = RunFolder(tmp_path)
    run.log_metrics({"step": 1})
    run.log_event("start", step=0)
    assert flushed == []  # a line costs no flush
    assert list(durable_records(run)) == ["metrics.jsonl", "events.jsonl"]
    assert flushed == [run.metrics, tmp_path, run.events, tmp_path]


def test_a_run_whose_records_were_emptied_gets_them_back_from_its_checkpoint(crashes: Runs) -> None:
    for rank in crashes.outcomes["emptied"]:
        assert rank.reason == "finished" and rank.rows == []
    assert metrics(crashes.root, "emptied") == metrics(crashes.root, "crashed")
    found = events(crashes.root, "emptied")
    assert found[:5] == events(crashes.root, "crashed")[:5]  # what its last checkpoint covers
    assert [event["event"] for event in found[5:]] == ["repair", "repair", "changes", "resume", "stop"]


def test_a_run_whose_checkpoints_were_deleted_keeps_its_old_rows(crashes: Runs) -> None:
    folder = crashes.folder("deleted")
    old = RunFolder(crashes.root / "runs/crashed").read_metrics()
    assert [rank.reason for rank in crashes.outcomes["deleted"]] == ["finished"] * 2
    assert read_json_lines(folder.path / "metrics-superseded.jsonl") == old
    assert [row["step"] for row in read_json_lines(folder.metrics)] == list(range(1, NUM_STEPS + 1))


def test_what_happened_in_steps_that_were_done_again_counts_once(crashes: Runs) -> None:
    found = [event for event in events(crashes.root, "damaged") if event["event"] != "changes"]
    assert [(event["event"], event["step"]) for event in found] == [
        ("start", 0),
        ("checkpoint", 2),
        ("checkpoint", 4),
        ("resume", 4),
        ("checkpoint", 6),
        ("stop", 8),
        ("alert", 8),  # of the damaged checkpoint, whose own event is void
        ("resume", 6),
        ("checkpoint", 8),
        ("stop", 8),
    ]
