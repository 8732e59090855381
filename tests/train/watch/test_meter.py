"""Readings of a real engine on two ranks: the figures of plain PyTorch on the whole batch, at every ZeRO stage."""

import math
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from benchmarks.detectors import damage
from benchmarks.detectors.damage import Injury
from model.attention import Documents
from model.loss import IGNORED
from model.transformer import Olmo2
from model.weights import initialise, random_weights
from report.metrics import (
    GRADIENT_ERROR,
    GRADIENT_RESIDUAL,
    GRADIENT_SLOPE,
    HEAD_SIGNALS,
    STATISTICS,
    UPDATE_ERROR,
    signals,
)
from tests.distributed import freeze_modules, run_ranks
from tests.train.engine.reference import (
    BF16_NOISE,
    CASES,
    RATES,
    REORDERED,
    batch,
    num_valid,
    reference_gradients,
    reference_updates,
)
from tests.train.engine.reference import configured as configured_for
from tests.train.tiny import LENGTH
from tests.train.watch.definitions import plain
from train.config import RunConfig
from train.distributed import Ranks
from train.engine.build import build_engine
from train.engine.config import Precision
from train.engine.engine import Engine, MicroBatch
from train.watch import meter
from train.watch.meter import Meter
from train.watch.reading import Reading
from train.watch.row_check import check_values
from train.watch.row_updates import RowUpdates, rows_now

configured = partial(configured_for, model__num_layers=3)  # two of them learn positions
CUTS = [[0, 20, 23, LENGTH], [0, LENGTH]]  # documents of the rows of a micro-batch
PLAIN = (2, Precision.fp32)
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "checkpointing": {"activation_checkpointing": True},
    "documents": {"cuts": CUTS},
    "filtered": {"filtered_rows": True},
    "evaluating": {"evaluating": True},
}


UpdateErrors = dict[str, dict[int, list[float]]]
WRITTEN_LAYER, WRITTEN_ROW = 2, 1


def read(
    ranks: Ranks,
    config: RunConfig,
    activation_checkpointing: bool = False,
    cuts: list[list[int]] | None = None,
    filtered_rows: bool = False,
    evaluating: bool = False,
    injury: Injury | None = None,
    errors: UpdateErrors | None = None,
) -> Reading:
    """The reading of one update on the global batch of step 0, micro-batches of two rows.

    `errors` gets the update errors after something else has written to a row, and of a second update that is refused.
    """
    config.model.activation_checkpointing = activation_checkpointing
    engine = build_engine(config, ranks, random_weights(config.model, config.positions, config.seed))
    tokens, labels = batch(0)
    share = len(tokens) // ranks.world_size
    if injury is not None and injury.begin is not None:
        injury.begin(dict(engine.model.learned_positions())[1], 0)
    reader = Meter(engine, filtered_rows)
    for first in range(ranks.rank * share, (ranks.rank + 1) * share, 2):
        documents = None if cuts is None else Documents.from_boundaries(cuts)
        rows = slice(first, first + 2)
        if evaluating:
            engine.evaluate(MicroBatch(tokens[:1], tokens[:1], documents))
            engine.forward_only(tokens[:1])
        engine.accumulate(MicroBatch(tokens[rows], labels[rows], documents), num_valid(0))
    reader.read_gradients()
    updates = RowUpdates(engine, dict(engine.model.learned_positions()))
    update = engine.update(*RATES[0])
    reading = reader.finish(1, update.grad_norm, ranks.world_size)
    if errors is not None:
        scale_row(engine, WRITTEN_LAYER, WRITTEN_ROW, 0.99)
        errors["written"] = errors_of(updates)
        updates = RowUpdates(engine, dict(engine.model.learned_positions()), rows_now(engine))
        for _ in range(engine.num_micro_batches):
            engine.accumulate(MicroBatch(tokens[:2], labels[:2]), 100.0)
        engine.update(*RATES[1], accept=lambda norm: False)
        errors["refused"] = errors_of(updates)
    hooked = [module for module in engine.model.modules() if type(module).__name__ in ("Positions", "Olmo2")]
    left = [hook for module in hooked for hook in module._forward_hooks.values() if "Meter" in repr(hook)]
    assert reading is not None and not left
    engine.close()
    freeze_modules()
    return reading


def scale_row(engine: Engine, layer: int, row: int, factor: float) -> None:
    """Multiplies a row of the masters of W_z, on the ranks that hold it."""
    weight = dict(engine.model.learned_positions())[layer].get_parameter("final.weight")
    part, start = engine.local_value(weight), engine.local_start(weight)
    scheme = dict(engine.model.learned_positions())[layer].scheme
    is_row = torch.arange(start, start + len(part)) // scheme.maps()["final"][1] == row
    part.mul_(torch.where(is_row, factor, 1.0))


def errors_of(updates: RowUpdates) -> dict[int, list[float]]:
    squares = updates.after_update()
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(squares)
    return updates.by_layer(squares)


INJURIES: dict[str, tuple[Injury, dict[str, float], list[float]]] = {  # what -> signals of layer 1, errors of its rows
    "wrong sign": (damage.position_gradient(lambda dz, _: -dz), {"gradient_slope": -1}, [0, 0]),
    "gradient a hundred times too large": (
        damage.position_gradient(lambda dz, _: 100 * dz),
        {"gradient_slope": 0.01},
        [0, 0],
    ),
    "a head's gradient lost after the meter": (
        damage.later_gradient(lambda dz, head: damage.of_head(dz, head, 0.0)),
        {"gradient_slope": 1},
        [1, 0],
    ),
    "wrong sign at a row": (
        damage.map_gradient("final", lambda g, head: damage.of_row(g, head, -1.0)),
        {"gradient_slope": 1},
        [2, 0],
    ),
    "offset after the meter": (damage.later_gradient(damage.offset), {"gradient_slope": 1}, [1, 1]),
    "offset before the meter": (damage.position_gradient(damage.offset), {"gradient_residual": 0.9}, [0, 0]),
    "later tokens": (damage.output(lambda z, _: z.roll(-1, 1)), {"position_error": 0.2}, [0.4, 0.4]),
    "a random order": (damage.output(damage.permuted), {"position_error": 1.4}, [0.4, 0.4]),
}


def uneven(stage: int) -> RunConfig:
    """One key-value head, and maps of an inner width of five: W_z has five elements, which two ranks cannot halve."""
    config = configured(stage, Precision.fp32)
    config.model.num_kv_heads, config.positions.hidden_divisor = 1, 6
    return config


def read_all(ranks: Ranks) -> dict[Any, Any]:
    readings: dict[Any, Any] = {name: read(ranks, configured(*PLAIN), **v) for name, v in VARIANTS.items()}
    if ranks.world_size == 1:
        residual = configured(*PLAIN)
        residual.positions.scheme = "residual"
        readings["residual"] = read(ranks, residual)
        mostly_z = configured(0, Precision.fp32)
        mostly_z.loss.z_loss_weight = 3.0
        readings["a large z-loss"] = read(ranks, mostly_z)
        readings |= {name: read(ranks, configured(0, Precision.fp32), injury=i) for name, (i, *_) in INJURIES.items()}
        for name in ("wrong sign", "gradient a hundred times too large"):
            readings["bf16", name] = read(ranks, configured(1, Precision.bf16), injury=INJURIES[name][0])
    if ranks.world_size > 1:
        for case in CASES:
            errors: UpdateErrors = {}
            readings[case] = read(ranks, configured(*case), errors=errors)
            readings["errors", case] = errors
        readings |= {("uneven", stage): read(ranks, uneven(stage)) for stage in (0, 1, 2, 3)}
    return readings


@pytest.fixture(scope="module")
def two() -> list[dict[Any, Any]]:
    return run_ranks(read_all, 2)


@pytest.fixture(scope="module")
def one() -> dict[Any, Any]:
    [readings] = run_ranks(read_all, 1)
    return readings


@pytest.mark.parametrize(("stage", "precision"), CASES)
def test_the_training_signal_is_that_of_autograd_and_adamw(two: Any, stage: int, precision: Precision) -> None:
    config = configured(stage, precision)
    weights = random_weights(config.model, config.positions, config.seed)
    gradients = reference_gradients(config, {name: weights(name) for name in names(config)}, precision, step=0)
    [after, *_], [grad_norm, *_] = reference_updates(config, precision)
    tolerance = BF16_NOISE if (stage, precision) in REORDERED else 1e-4
    for rank in two:
        reading = rank[stage, precision]
        assert list(reading.signals) == [1, 2]
        for layer, signal in reading.signals.items():
            assert list(signal) == list(signals(reading.maps[layer]))
            total = 0.0
            for name in reading.maps[layer]:
                key = f"layers.{layer}.positions.{name}.weight"
                norm = float(weights(key).double().norm())
                total += float(gradients[key].double().square().sum())
                assert signal[f"{name}_norm"] == pytest.approx(norm, rel=1e-6)
                assert signal[f"{name}_grad_norm"] == pytest.approx(float(gradients[key].norm()), rel=tolerance)
                changed = float((after[key] - weights(key)).double().norm())
                assert signal[f"{name}_update_ratio"] == pytest.approx(changed / norm, rel=tolerance)
            assert signal["gradient_share"] == pytest.approx(total**0.5 / grad_norm, rel=tolerance)
            assert 0 < signal["gradient_residual"] < (1e-6 if precision is Precision.fp32 else 2e-2)
            assert signal["position_error"] < (1e-6 if precision is Precision.fp32 else 2e-2)
            assert signal["gradient_slope"] == pytest.approx(1, abs=0.01 if precision is Precision.fp32 else 0.15)
            key = f"layers.{layer}.positions.final.weight"
            rows, values = gradients[key].norm(dim=1).tolist(), reading.heads[layer]
            assert values["head_norm"] == pytest.approx(weights(key).double().norm(dim=1).tolist(), rel=1e-6)
            assert values["head_grad_norm"] == pytest.approx(rows, rel=tolerance)
            assert max(values["gradient_error"]) < (1e-5 if precision is Precision.fp32 else 2e-2)
            assert max(values["update_error"]) < 1e-6  # masters and moments are fp32


@pytest.mark.parametrize(("stage", "precision"), CASES)
def test_what_else_writes_to_a_row_shows_in_it_and_a_refused_update_is_right(
    two: Any, stage: int, precision: Precision
) -> None:
    for rank in two:
        errors = rank["errors", (stage, precision)]
        assert errors["written"][WRITTEN_LAYER].pop(WRITTEN_ROW) == pytest.approx(0.01, rel=0.5)
        assert max(error for layer in errors["written"].values() for error in layer) < 1e-6
        assert errors["refused"] == {1: [0, 0], 2: [0, 0]}


@pytest.mark.parametrize("name", INJURIES)
def test_a_wrong_gradient_and_wrong_positions_show_in_their_layer_only(one: Any, name: str) -> None:
    _, expected, errors = INJURIES[name]
    injured, other = (one[name].signals[layer] for layer in (1, 2))
    for figure, value in expected.items():
        least = figure in ("position_error", "gradient_residual")
        assert injured[figure] > value / 2 if least else injured[figure] == pytest.approx(value, abs=0.02, rel=0.05)
    for layer, expected_errors in ((1, errors), (2, [0, 0])):
        found = one[name].heads[layer]["gradient_error"]
        assert all(
            (error > 0.3) == (least > 0) and error >= 0.3 * least
            for error, least in zip(found, expected_errors, strict=True)
        )
    assert other["position_error"] < 1e-5 and other["gradient_residual"] < 1e-5
    if name != "a random order":  # then the loss of the row is another each time
        assert other["gradient_slope"] == pytest.approx(1, abs=0.02)


def test_the_slope_is_of_the_whole_loss(one: Any) -> None:
    slopes = [signal["gradient_slope"] for signal in one["a large z-loss"].signals.values()]
    assert slopes == [pytest.approx(1, abs=0.02)] * 2


def test_of_residual_positions_the_deviations_are_read(one: Any) -> None:
    """At the start there are none, and only the last map has a gradient, which is that of the loss."""
    reading = one["residual"]
    assert reading.deviations == (1, 2) == tuple(reading.heads)
    for layer, values in reading.heads.items():
        assert all(values[name] == [0, 0] for name in ("mean", "range", "resolution", "similarity", "head_norm"))
        assert min(values["head_grad_norm"]) > 0 and max(values["gradient_error"]) < 1e-5
        signal = reading.signals[layer]
        assert signal["gate_grad_norm"] == signal["content_grad_norm"] == signal["position_error"] == 0
        assert signal["final_grad_norm"] > 0 and signal["gradient_residual"] < 1e-6
        assert signal["gradient_slope"] == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("name", ["wrong sign", "gradient a hundred times too large"])
def test_a_wrong_gradient_shows_in_bf16_too(one: Any, name: str) -> None:
    slopes = [one["bf16", name].signals[layer]["gradient_slope"] for layer in (1, 2)]
    assert slopes == [pytest.approx(INJURIES[name][1]["gradient_slope"], abs=0.15), pytest.approx(1, abs=0.15)]


def test_a_slope_is_known_where_rounding_cannot_be_why_it_is_not_one() -> None:
    for change, expected, noise, known in (
        (0.95, 1.0, 0.1, True),
        (0.95, 1.0, 0.2, False),
        (-1.0, 1.0, 0.2, True),
        (0.0, 1.0, 0.2, False),
        (1.0, 0.0, 0.0, False),
    ):
        slope = check_values([0.0, 1.0, change, expected, noise**2])[1]
        assert slope == change / expected if known else math.isnan(slope)


def names(config: RunConfig) -> list[str]:
    with torch.device("meta"):
        return [name for name, _ in Olmo2(config.model, config.positions).named_parameters()]


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_rank_and_two_read_the_same(one: Any, two: Any, variant: str) -> None:
    for rank in two:
        assert rank[variant].metrics().keys() == one[variant].metrics().keys()
        for name, value in one[variant].metrics().items():
            rel, absolute = (1e-4, 1e-12) if name.endswith(GRADIENT_RESIDUAL) else (1e-5, 1e-12)
            if name.endswith((GRADIENT_ERROR, UPDATE_ERROR, GRADIENT_SLOPE)):  # of float32 rounding
                rel, absolute = 0, 1e-3
            if name.rpartition("/")[2] in STATISTICS:
                rel, absolute = 1e-13, 1e-13  # of float64 sums in another order
            assert rank[variant].metrics()[name] == pytest.approx(value, rel=rel, abs=absolute), name


def test_layers_with_other_maps_are_read_by_their_names() -> None:
    layers: dict[int, Any] = {2: nn.ModuleDict({"slope": nn.Linear(3, 2)}), 5: nn.ModuleDict({"a": nn.Linear(2, 2)})}
    layers[5].add_module("b", nn.Linear(4, 1))
    for module in layers.values():
        vars(module)["scheme"] = SimpleNamespace(symbols=dict.fromkeys(dict(module.named_children()), "W"))
    parts: Any = SimpleNamespace(local_value=lambda p: p.detach(), local_gradient=lambda p: 2 * p.detach())
    squares = meter.MapSquares(parts, layers)
    for module in layers.values():
        for name in dict(module.named_children()):
            module.get_parameter(f"{name}.weight").data.mul_(4)
    found = squares.by_layer(squares.after_update())
    assert {layer: list(of_maps) for layer, of_maps in found.items()} == {2: ["slope"], 5: ["a", "b"]}
    for layer, of_maps in found.items():
        values = meter.signal_values(of_maps, [1.0, 4.0], grad_norm=100.0)
        for name in of_maps:
            norm = float(layers[layer].get_parameter(f"{name}.weight").detach().norm()) / 4
            assert values[f"{name}_norm"] == pytest.approx(norm)
            assert values[f"{name}_grad_norm"] == pytest.approx(2 * norm)
            assert values[f"{name}_update_ratio"] == pytest.approx(3)
        assert [*values, "gradient_slope", "position_error"] == list(signals(dict.fromkeys(of_maps, "W")))
        assert values["gradient_residual"] == 0.25


def test_a_stage_does_not_change_a_reading(two: Any) -> None:
    for stage in (0, 1, 3):
        for layer, signal in two[0]["plain"].signals.items():
            found, heads = two[0][stage, Precision.fp32], two[0]["plain"].heads[layer]
            other = {**found.signals[layer], "gradient_residual": signal["gradient_residual"]}
            assert other == pytest.approx(signal, rel=1e-4)
            assert {name: found.heads[layer][name] for name in STATISTICS} == {name: heads[name] for name in STATISTICS}
            for name in HEAD_SIGNALS:
                assert found.heads[layer][name] == pytest.approx(heads[name], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_maps_that_do_not_divide_over_the_ranks_are_read_whole(two: Any, stage: int) -> None:
    for layer, signal in two[0]["uneven", 0].signals.items():
        other = {**two[0]["uneven", stage].signals[layer], "gradient_residual": signal["gradient_residual"]}
        assert other == pytest.approx(signal, rel=1e-4)
    assert len(two[0]["uneven", stage].heads[1]["std"]) == 1


def test_what_checkpointing_recomputes_is_not_counted_again(one: Any) -> None:
    assert one["checkpointing"].heads == one["plain"].heads
    assert one["checkpointing"].signals[2] == pytest.approx(one["plain"].signals[2], rel=1e-6)


def test_an_evaluation_does_not_enter_a_reading(one: Any) -> None:
    assert one["evaluating"] == one["plain"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_statistics_are_those_of_the_fresh_model_on_the_global_batch(one: Any, variant: str) -> None:
    config = configured(*PLAIN)
    model = Olmo2(config.model, config.positions, config.loss.z_loss_weight)
    initialise(model, random_weights(config.model, config.positions, config.seed), "cpu")
    positions: dict[int, Tensor] = {}
    for layer, module in model.learned_positions():
        module.register_forward_hook(lambda _, __, z, layer=layer: positions.update({layer: z.detach()}))
    tokens, labels = batch(0)
    cuts = (VARIANTS[variant].get("cuts") or [[0, LENGTH]] * 2) * 4
    model(tokens, None, Documents.from_boundaries(cuts) if variant == "documents" else None)
    counts = (labels != IGNORED).any(dim=1) | (variant == "filtered")
    assert counts.sum() > 0 and bool(counts.all()) == (variant == "filtered")
    for layer, z in positions.items():
        pieces = [
            z[row, start:stop].numpy()
            for row in range(len(tokens))
            for start, stop in zip(cuts[row], cuts[row][1:], strict=False)
            if counts[row] and stop - start >= 16
        ]
        for head in range(z.shape[2]):
            values = [plain(piece, head, config.model.head_dim // 2) for piece in pieces]
            for name in STATISTICS:
                mean = np.average([value[name] for value in values], weights=[len(piece) for piece in pieces])
                assert one[variant].heads[layer][name][head] == pytest.approx(mean, rel=1e-4, abs=1e-5), name
