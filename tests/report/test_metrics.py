"""Names of metrics: what is built is found again, and nothing else is."""

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.positions import SCHEMES
from report.metrics import (
    HEAD_SIGNALS,
    MAX_LAYERS,
    RUN_METRICS,
    STATISTICS,
    MetricTable,
    Scope,
    bucket_loss,
    layer_metric,
    positions_metric,
    probe_choice,
    probe_nll,
    probe_score,
    signals,
    source_loss,
    source_perplexity,
)
from report.schemes import learns_positions, map_symbols

ROOT = Path(__file__).parents[2]
PACKAGES = ("benchmarks", "common", "data", "evaluate", "launch", "model", "report", "train")
SYMBOLS = {"gate": "W_g", "slope": "W_s"}
TABLE = MetricTable(16, SYMBOLS)


def test_names_are_those_of_the_contract() -> None:
    assert layer_metric(5, "std") == "positions/layer_05/std" and layer_metric(123, "std") == "positions/layer_123/std"
    assert positions_metric("std") == "positions/std"
    assert source_loss("web") == "eval/source/web/loss" and source_perplexity("web") == "eval/source/web/perplexity"
    assert bucket_loss(1024, 2048) == "eval/position/1024-2048/loss"
    names = [build("copy", 64) for build in (probe_nll, probe_choice, probe_score)]
    assert names == [f"eval/probe/copy-64/{figure}" for figure in ("nll", "choice", "score")]
    assert list(signals(SYMBOLS)) == [
        *("gate_norm", "slope_norm", "gate_grad_norm", "slope_grad_norm", "gate_update_ratio", "slope_update_ratio"),
        *("gradient_share", "gradient_residual", "gradient_slope", "position_error"),
    ]


def test_every_name_of_a_layer_gives_back_its_layer_and_its_figure() -> None:
    for layer in range(16):
        for name, metric in {**STATISTICS, **HEAD_SIGNALS, **signals(SYMBOLS)}.items():
            entry = TABLE.find(layer_metric(layer, name))
            assert entry is not None and (entry.layer, entry.metric) == (layer, metric)
            assert metric.scope is (Scope.head if name in STATISTICS | HEAD_SIGNALS else Scope.layer)


def test_names_of_the_run_are_found() -> None:
    for name in RUN_METRICS:
        entry = TABLE.find(name)
        assert entry is not None and entry.metric is RUN_METRICS[name] and entry.layer is None
    entry = TABLE.find(positions_metric("std"))
    assert entry is not None and entry.metric.scope is Scope.positions and entry.metric.label == "spread"


@given(st.text(min_size=1))
def test_a_source_of_any_name_is_found_again(source: str) -> None:
    for build in (source_loss, source_perplexity):
        entry = TABLE.find(build(source))
        assert entry is not None and entry.source == source and entry.metric.scope is Scope.source


@given(st.text(min_size=1), st.integers(0, 2**20))
def test_a_probe_is_found_again(task: str, length: int) -> None:
    for build in (probe_nll, probe_choice, probe_score):
        entry = TABLE.find(build(task, length))
        assert entry is not None and entry.probe == (task, length) and entry.metric.scope is Scope.probe


@given(st.integers(0, 2**20), st.integers(0, 2**20))
def test_a_bucket_is_found_again(start: int, stop: int) -> None:
    entry = TABLE.find(bucket_loss(start, stop))
    assert entry is not None and entry.bucket == (start, stop)


@pytest.mark.parametrize(
    "name",
    [
        *("train/other", "positions/layer_16/std", "positions/layer_5/std", "positions/layer_05/content_norm"),
        *("eval/source//loss", "eval/position/8/loss", "eval/position/a-b/loss", "eval/position/01-8/loss", "eval/x"),
        *("eval/probe/copy/nll", "eval/probe/-64/nll", "eval/probe/copy-064/nll", "eval/probe/copy-64/other"),
    ],
)
def test_other_names_are_not_known(name: str) -> None:
    assert TABLE.find(name) is None


def test_a_config_says_how_many_layers_and_which_maps_there_are() -> None:
    rope = MetricTable.of({"model": {"num_layers": 4}, "positions": {"scheme": "rope"}})
    assert rope.find(layer_metric(3, "std")) and not rope.find(layer_metric(4, "std"))
    name = next(iter(signals(SCHEMES["repo"].symbols)))
    assert not rope.find(layer_metric(3, name))
    for lost in ({}, {"model": 3, "positions": None}, {"model": {"num_layers": 10**9}}):
        table = MetricTable.of(lost)
        assert table.find(layer_metric(MAX_LAYERS - 1, name)) and not table.find(layer_metric(MAX_LAYERS, "std"))


@pytest.mark.parametrize(
    ("positions", "learns"),
    [
        ({"scheme": "repo"}, True),
        ({"scheme": "rope"}, False),
        ({"scheme": "list", "layers": ["rope", "repo"]}, True),
        ({"scheme": "list", "layers": ["rope", "nope"]}, False),
        (None, True),
    ],
)
def test_a_run_learns_its_positions_unless_its_config_has_none_learned(positions: object, learns: bool) -> None:
    config = {"positions": positions}
    assert learns_positions(config) == bool(map_symbols(config)) == learns


def test_no_other_file_writes_a_name_or_takes_one_apart() -> None:
    table, sections = MetricTable.of({}), {f"{name.partition('/')[0]}/" for name in RUN_METRICS}
    texts = [
        (f"{path.relative_to(ROOT)}:{node.lineno}", node.value)
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if path != ROOT / "report/metrics.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    assert len(texts) > 5000
    assert [each for each in texts if each[1] in sections or table.find(each[1])] == []
