"""What findings say of scores that are made by hand: differences, rates, sentences, the table and the page."""

import json
import math
import random
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from common.files import write_text_whole
from evaluate.replicate.config import ReplicateConfig, read_config
from evaluate.replicate.findings import chosen_rates, findings, scores_path
from evaluate.replicate.runs import Run, command, compared_runs, tuning_runs
from report.replication import markdown, page

SEEDS = [1, 2, 3, 4, 5, 6, 7, 8]


def configured(*changes: str) -> ReplicateConfig:
    return read_config(["size=tiny", "schemes=[rope,repo,residual]", "primary.scheme=repo", "draws=300", *changes])


def write_scores(root: Path, run: Run, levels: dict[int, float], nll: float = 1.0) -> None:
    """Scores around a level at each length; samples differ, in the same way for every scheme of a seed."""
    draw, scores = random.Random(run.seed), {}
    for length, level in levels.items():
        accuracy = [level + 0.02 * draw.random() for _ in range(6)]
        scores[f"reverse-{length}"] = {"accuracy": accuracy, "exact": [0.0] * 6, "nll": [nll] * 6}
    path = scores_path(root, run)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_whole(path, json.dumps({"probes": "", "scores": scores}), durable=False)


def found_with(root: Path, repo_gains: list[float]) -> dict[str, Any]:
    """Findings where residual is rope, and repo is above it at length 40 by the gain of each seed."""
    config = configured(f"seeds={SEEDS[: len(repo_gains)]}".replace(" ", ""))
    runs = compared_runs(config, dict.fromkeys(config.schemes, 1e-3))
    for run in runs:
        gain = repo_gains[run.seed - 1] if run.scheme == "repo" else 0.0
        write_scores(root, run, {32: 0.9, 40: 0.5 + gain})
        folder = run.folder(root)
        folder.mkdir(parents=True)
        rows = [{"step": 2, "positions/std": 0.1}, {"step": 4, "positions/std": 0.25}, {"step": 5}]
        is_learned = run.scheme != "rope"
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows if is_learned))
        (folder / "events.jsonl").write_text(json.dumps({"event": "alert", "kind": "collapse"}) + "\n")
    return findings(config, runs, dict.fromkeys(config.schemes, 1e-3), root)


def test_a_difference_that_all_seeds_share_is_supported(tmp_path: Path) -> None:
    found = found_with(tmp_path, [0.10, 0.12, 0.08, 0.11, 0.09, 0.10, 0.12, 0.08])
    primary = found["primary"]
    assert (primary["scheme"], primary["task"], primary["lengths"]) == ("repo", "reverse", [40])
    assert primary["mean"] == pytest.approx(0.1) and primary["by_seed"] == pytest.approx(
        [0.10, 0.12, 0.08, 0.11, 0.09, 0.10, 0.12, 0.08]
    )
    assert 0.08 < primary["low"] < 0.1 < primary["high"] < 0.12 and primary["p"] < 1e-5
    assert "repo - rope, reverse at 40 tokens: +10.0 points" in found["sentences"][0]
    assert found["sentences"][0].endswith("Supported: repo is above rope here.")
    assert [(each["scheme"], each["lengths"]) for each in found["others"]] == [
        ("residual", [40]),
        ("repo", [32]),
        ("residual", [32]),
    ]
    assert all(each["mean"] == 0 and each["p_holm"] == 1 for each in found["others"])
    assert found["sentences"][1] == "None of the other comparisons (3) is supported after Holm's correction."


def test_seeds_that_disagree_support_nothing(tmp_path: Path) -> None:
    said = found_with(tmp_path, [0.2, -0.15, 0.1, -0.2, 0.05, 0.0, 0.15, -0.1])["sentences"][0]
    assert "Not supported: neither that repo is better nor that it is worse." in said
    assert "cannot be seen with 8 seeds here" in said


def test_the_same_difference_in_all_samples_is_no_certainty(tmp_path: Path) -> None:
    said = found_with(tmp_path, [0.0, 0.0, 0.0])["sentences"][0]
    assert "+0.0 points [-39.3, +39.3], p = 1." in said  # six samples
    assert "A difference of less than about 39.3 points cannot be seen with 3 seeds here." in said


def test_one_seed_supports_nothing(tmp_path: Path) -> None:
    found = found_with(tmp_path, [0.4])
    assert "With one seed nothing is known" in found["sentences"][0]
    assert any(said.startswith("One seed: this cannot rank schemes") for said in found["sentences"])
    assert "nan" not in markdown(found, "x") and "nan" not in page(found, "x")


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_table_and_page_show_every_seed_and_the_papers_numbers(tmp_path: Path) -> None:
    found = json.loads(json.dumps(found_with(tmp_path, [0.10, 0.12, 0.08, 0.11, 0.09, 0.10, 0.12, 0.08])))
    table = markdown(found, "replicate-tiny")
    assert (
        "| RePo (primary) | reverse | 40 | +10.0 |" in table and "| RePo | 100.0 | 89.3 | 86.0 | 89.8 | 91.3 |" in table
    )
    assert "| residual (ours) | 1 | 0.25 | collapse |" in table
    tags = Tags()
    tags.feed(page(found, "replicate-tiny"))
    circles = [own for tag, own in tags.seen if tag == "circle"]
    assert len(circles) == 2 * 3 * 8 + 2 * 2 * 8  # lengths, schemes and seeds; of differences one scheme less
    assert all(0 <= float(str(own["cy"])) <= 240 and 0 <= float(str(own["cx"])) <= 540 for own in circles)
    assert not any("src" in own or "href" in own for _, own in tags.seen) and "script" not in dict(tags.seen)
    for said in found["sentences"]:
        assert said in tags.text


def test_the_rate_of_a_scheme_is_that_of_the_lowest_nll_of_its_tuning_runs(tmp_path: Path) -> None:
    config = configured("tuning.seeds=[8,9]", "seeds=[1]")
    runs = tuning_runs(config)
    assert len(runs) == 3 * 2 * 2 and {run.seed for run in runs} == {8, 9}
    best = {"rope": 2e-3, "repo": 1e-3, "residual": 2e-3}
    for run in runs:
        write_scores(tmp_path, run, {32: 0.5, 40: 0.5}, nll=1.0 if run.rate == best[run.scheme] else 1.2)
    assert chosen_rates(config, runs, tmp_path) == best
    untuned = configured("tuning.seeds=[]")
    assert chosen_rates(untuned, [], tmp_path) == dict.fromkeys(untuned.schemes, 1e-3)


def test_a_rate_at_which_training_diverged_is_not_chosen(tmp_path: Path) -> None:
    config = configured("tuning.rates=[3e-3,1e-3,2e-3]")
    runs = tuning_runs(config)
    for run in runs:
        write_scores(tmp_path, run, {32: 0.5, 40: 0.5}, nll=math.nan if run.rate == 3e-3 else 1.0 + run.rate)
    assert chosen_rates(config, runs, tmp_path) == dict.fromkeys(config.schemes, 1e-3)


def test_runs_of_a_seed_share_backbone_and_data(tmp_path: Path) -> None:
    config = configured("seeds=[1,2]")
    commands = [
        command(run, config, tmp_path) for run in compared_runs(config, {"rope": 1e-3, "repo": 2e-3, "residual": 3e-3})
    ]
    for seed, own in ((1, commands[:3]), (2, commands[3:])):
        shared = {line for line in own[0] if all(line in other for other in own)}
        assert {f"seed={seed}", f"init_from={tmp_path}/runs/backbone-seed-{seed}/hf"} <= shared
        assert f"data.root={tmp_path}/data/stage-2/seed-{seed}" in shared
        differing = [sorted(set(each) - shared) for each in own]
        assert [[line.partition("=")[0] for line in each] for each in differing] == [
            ["name", "optimizer.lr", "positions"]
        ] * 3
