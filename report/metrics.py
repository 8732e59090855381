"""The names of all metrics, and what each one means: label, unit and a line for people.

metrics.jsonl, W&B and the page use these names. They are built here, and `MetricTable` finds what a name stands for, so
no other file takes a name apart. A name that the table does not know is still shown, as it is. Without torch: a page is
written in a second.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from report.schemes import map_symbols

MAX_LAYERS = 256  # of a run whose config does not say how many it has


class Scope(Enum):
    """What one value of a metric is about."""

    run = "run"
    """The whole run: one number."""
    positions = "positions"
    """The positions of all layers together: one number."""
    layer = "layer"
    """One layer: one number."""
    head = "head"
    """One layer: a list with one number per head."""
    source = "source"
    """One source of the validation rows: one number."""
    bucket = "bucket"
    """Tokens between two indices of the validation rows: one number."""
    probe = "probe"
    """The samples of a probe's task at a length: one number."""


@dataclass(frozen=True)
class Metric:
    """What a metric is called and what it means."""

    name: str
    """As in metrics.jsonl; for a figure of layers, sources or buckets only its own part of the name."""
    label: str
    unit: str
    meaning: str
    scope: Scope = Scope.run


STEP, TOKENS = "step", "tokens"
"""Keys of every row that are no metrics: updates done, tokens read."""
LOSS, CE_LOSS, Z_LOSS = "train/loss", "train/ce_loss", "train/z_loss"
LEARNING_RATE, GRAD_NORM, SKIPPED = "optim/lr", "optim/grad_norm", "optim/skipped"
TOKENS_PER_SECOND, STEP_SECONDS = "throughput/tokens_per_second", "throughput/step_seconds"
DATA_SECONDS, MFU, MFU_CAUSAL = "throughput/data_seconds", "throughput/mfu", "throughput/mfu_causal"
FORWARD_SECONDS, BACKWARD_SECONDS = "throughput/forward_seconds", "throughput/backward_seconds"
UPDATE_SECONDS, OTHER_SECONDS = "throughput/update_seconds", "throughput/other_seconds"
PHASES = {
    "data": DATA_SECONDS,
    "forward": FORWARD_SECONDS,
    "backward": BACKWARD_SECONDS,
    "update": UPDATE_SECONDS,
    "other": OTHER_SECONDS,
}
"""The parts of a step, which add up to its seconds."""
PEAK_GIB, PLANNED_GIB = "memory/peak_gib", "memory/planned_gib"
OPEN_ALERTS = "positions/open_alerts"
EVAL_LOSS, EVAL_PERPLEXITY = "eval/loss", "eval/perplexity"
WINDOW = 10
"""Last values of a figure that tables of runs average."""


def _by_name(metrics: Iterable[Metric]) -> dict[str, Metric]:
    return {metric.name: metric for metric in metrics}


RUN_METRICS = _by_name(
    [
        Metric(LOSS, "Training loss", "nats", "what is minimised: cross entropy plus z-loss"),
        Metric(CE_LOSS, "Loss", "nats", "cross entropy per valid token"),
        Metric(Z_LOSS, "z-loss", "nats", "weighted square of the log of the softmax's denominator, per valid token"),
        Metric(LEARNING_RATE, "Learning rate", "", "of the backbone"),
        Metric(GRAD_NORM, "Gradient norm", "", "of the whole model, before clipping"),
        Metric(SKIPPED, "Skipped updates", "updates", "not applied so far: not finite, or refused by the guard"),
        Metric(TOKENS_PER_SECOND, "Tokens per second", "tokens/s", "over all ranks"),
        Metric(STEP_SECONDS, "Seconds per step", "s", "of one step, data included"),
        Metric(DATA_SECONDS, "Seconds for data", "s", "of one step in which the main rank waits for data"),
        Metric(FORWARD_SECONDS, "Seconds for forward", "s", "of one step, on the device of the main rank"),
        Metric(BACKWARD_SECONDS, "Seconds for backward", "s", "of one step, with the reductions of ZeRO 2 and 3"),
        Metric(UPDATE_SECONDS, "Seconds for the update", "s", "of one step: optimizer, clipping and communication"),
        Metric(OTHER_SECONDS, "Seconds for the rest", "s", "of one step: callbacks, launches, an idle device"),
        Metric(MFU, "MFU", "share", "model FLOPs utilisation, with attention counted in full"),
        Metric(MFU_CAUSAL, "MFU, causal", "share", "model FLOPs utilisation, with the causal half of attention"),
        Metric(PEAK_GIB, "Peak memory", "GiB", "of the device of the main rank"),
        Metric(PLANNED_GIB, "Planned memory", "GiB", "what `python -m launch plan` counts for that device"),
        Metric(OPEN_ALERTS, "open alerts", "places", "heads and layers with an alert that lasts", Scope.positions),
        Metric(EVAL_LOSS, "Validation loss", "nats", "cross entropy per valid token of the validation rows"),
        Metric(EVAL_PERPLEXITY, "Validation perplexity", "", "exponential of the validation loss"),
    ]
)
"""Metrics with one name, by that name."""


COLUMNS = (
    Metric("eval_loss", "eval loss", "nats", "the last validation loss up to the tokens that the table names"),
    Metric("loss", "loss", "nats", f"mean cross entropy of the last {WINDOW} logged training steps up to those tokens"),
    Metric("to_best", "to best", "nats", "above the best, by the eval loss if all runs have one, else the loss"),
    Metric("step", "step", "", "updates done by now, which may be more than those tokens"),
    Metric("state", "state", "", "whether the run goes on"),
    Metric("tokens_per_second", "tokens/s", "tokens/s", "median of the logged steps, over all ranks"),
    Metric("process_hours", "process-hours", "hours", "of all processes, within steps; GPU-hours on GPUs"),
    Metric("alerts", "alerts", "", "alerts of the position watch, also those that are over"),
    Metric("seeds", "seeds", "", "runs of the setting"),
    Metric("mean", "mean", "nats", "mean over seeds of the eval loss if all runs have one, else of the loss"),
    Metric("spread", "spread", "nats", "sample standard deviation of it over seeds"),
)
"""Columns of tables that compare runs; all others are keys of the config."""


def _statistic(name: str, label: str, unit: str, meaning: str) -> Metric:
    return Metric(name, label, unit, meaning, Scope.head)


STATISTICS = _by_name(
    [
        _statistic("mean", "mean", "positions", "mean position of a head's tokens"),
        _statistic("std", "spread", "positions", "standard deviation of a head's positions; near zero: all are equal"),
        _statistic("min", "minimum", "positions", "the lowest position of a sequence"),
        _statistic("max", "maximum", "positions", "the highest position of a sequence"),
        _statistic("range", "range", "positions", "highest minus lowest, the paper's d; for RoPE the length minus 1"),
        _statistic("q01", "1 % quantile", "positions", "1 % of the tokens lie below"),
        _statistic("q50", "median", "positions", "half of the tokens lie below"),
        _statistic("q99", "99 % quantile", "positions", "99 % of the tokens lie below"),
        _statistic("negative_share", "negative", "share", "tokens with a position below zero"),
        _statistic("step_mean", "mean step", "positions", "from a token to the next; RoPE's is 1"),
        _statistic("step_std", "spread of steps", "positions", "standard deviation of the steps; RoPE's is 0"),
        _statistic("forward_share", "forward", "share", "steps above zero; RoPE's is 1"),
        _statistic("rank_correlation", "order", "correlation", "of position and token index, by rank; RoPE's is 1"),
        _statistic("constant_share", "constant chunks", "share", "16-token chunks with equal positions: locally NoPE"),
        _statistic("monotone_share", "monotone chunks", "share", "16-token chunks that only rise or only fall"),
        _statistic("hybrid_share", "hybrid chunks", "share", "16-token chunks neither constant nor monotone"),
        _statistic("resolution", "resolution", "frequencies", "rotary frequencies that the range turns; 0: as NoPE"),
        _statistic("similarity", "similarity", "correlation", "with the layer's other heads; 1: all are the same"),
    ]
)
"""Statistics of positions by their own name, in the order in which train/watch/statistics.py stacks them."""

HEAD_NORM, HEAD_GRADIENT, GRADIENT_ERROR = "head_norm", "head_grad_norm", "gradient_error"
UPDATE_ERROR = "update_error"
HEAD_SIGNALS = _by_name(
    [
        _statistic(HEAD_NORM, "norm of the head's row", "", "Euclidean norm of the head's row of the last map"),
        _statistic(HEAD_GRADIENT, "gradient of the head", "", "norm of the gradient of this row, before clipping"),
        _statistic(GRADIENT_ERROR, "error of the gradient", "share", "of this row, against that of its positions"),
        _statistic(UPDATE_ERROR, "error of the update", "share", "of this row, against what the optimizer makes of it"),
    ]
)
"""Training signals of heads by their own name: of a head's row of the map whose output is the positions."""

NORM, GRADIENT, UPDATE = "norm", "grad_norm", "update_ratio"
"""Figures of each map of a layer's learned positions."""
GRADIENT_SHARE, GRADIENT_RESIDUAL = "gradient_share", "gradient_residual"
GRADIENT_SLOPE, POSITION_ERROR = "gradient_slope", "position_error"
"""Figures of all maps of a layer."""


def map_signal(name: str, figure: str) -> str:
    """Returns the own name of a figure (NORM, GRADIENT or UPDATE) of the map of this name."""
    return f"{name}_{figure}"


def signals(symbols: Mapping[str, str]) -> dict[str, Metric]:
    """Returns the training signals of a layer whose maps have these symbols (name -> symbol), by their own name."""
    of_maps = [
        (NORM, "norm of {}", "", "Euclidean norm of {}"),
        (GRADIENT, "gradient of {}", "", "norm of the gradient of {}, before clipping"),
        (UPDATE, "update of {}", "share", "norm of the change of {} in a step over its norm"),
    ]
    return _by_name(
        [
            *(
                Metric(map_signal(name, figure), label.format(symbol), unit, meaning.format(symbol), Scope.layer)
                for figure, label, unit, meaning in of_maps
                for name, symbol in symbols.items()
            ),
            Metric(
                GRADIENT_SHARE,
                "share of the gradient",
                "share",
                "norm of the maps' gradients over that of the model's",
                Scope.layer,
            ),
            Metric(
                GRADIENT_RESIDUAL,
                "residual of the gradient",
                "share",
                "sum over a row of dz, the loss's gradient by positions, which should be 0, over the sum of |dz|",
                Scope.layer,
            ),
            Metric(
                GRADIENT_SLOPE,
                "slope of the loss",
                "share",
                "change of the loss as positions move along its gradient, over the expected; 1: right, -1: wrong sign",
                Scope.layer,
            ),
            Metric(
                POSITION_ERROR,
                "error of positions",
                "share",
                "change of the first half's positions when later tokens change, over their spread; 0: none, as it must",
                Scope.layer,
            ),
        ]
    )


def evaluation_part(name: str) -> str | None:
    """Returns a result's own part of its name, as in `mine` of eval/mine; None if no evaluation measures it."""
    section, _, part = name.partition("/")
    return part if section == "eval" else None


def positions_metric(statistic: str) -> str:
    """Returns the name of a statistic's mean over all heads of all layers."""
    return f"positions/{statistic}"


def layer_metric(layer: int, statistic: str) -> str:
    """Returns the name of a statistic or signal of one layer."""
    return f"positions/layer_{layer:02d}/{statistic}"


@dataclass(frozen=True)
class Family:
    """Metrics of one kind whose names hold a key that only the run knows: `prefix` KEY `suffix`."""

    prefix: str
    suffix: str
    metric: Metric

    def name(self, key: str) -> str:
        """Returns the name for a key."""
        return f"{self.prefix}{key}{self.suffix}"

    def key(self, name: str) -> str | None:
        """Returns the key in a name that `name` has built, or None."""
        key = name.removeprefix(self.prefix).removesuffix(self.suffix)
        return key if key and self.name(key) == name else None


SOURCE_LOSS, SOURCE_PERPLEXITY = (
    Family("eval/source/", f"/{name}", Metric(name, label, unit, meaning, Scope.source))
    for name, label, unit, meaning in (
        ("loss", "Validation loss by source", "nats", "cross entropy per valid token of the source's rows"),
        ("perplexity", "Validation perplexity by source", "", "exponential of the source's validation loss"),
    )
)
BUCKET_LOSS = Family(
    "eval/position/",
    "/loss",
    Metric(
        "loss",
        "Validation loss by position in the row",
        "nats",
        "cross entropy of the tokens between two indices of a row",
        Scope.bucket,
    ),
)
PROBE_NLL, PROBE_CHOICE, PROBE_SCORE = PROBES = tuple(
    Family("eval/probe/", f"/{name}", Metric(name, label, unit, meaning, Scope.probe))
    for name, label, unit, meaning in (
        ("nll", "NLL of right answers", "nats", "minus the log-likelihood of the right answer to a probe, per token"),
        ("choice", "Right choices", "share", "probes whose right answer is more likely than the wrong ones"),
        ("score", "Score of answers", "share", "mean score of the answers that are generated to a probe, 0 to 1"),
    )
)
"""Figures of probes; the key is TASK-LENGTH."""


def probe_nll(task: str, length: int) -> str:
    """Returns the name of the log-likelihood of the right answers of a task at a length, per token, negative."""
    return PROBE_NLL.name(f"{task}-{length}")


def probe_choice(task: str, length: int) -> str:
    """Returns the name of the share of samples whose right answer is the most likely one."""
    return PROBE_CHOICE.name(f"{task}-{length}")


def probe_score(task: str, length: int) -> str:
    """Returns the name of the mean score of generated answers."""
    return PROBE_SCORE.name(f"{task}-{length}")


def probe_title(probe: tuple[str, int]) -> str:
    """Returns what people read for a task at a length: copy, 128 tokens."""
    task, length = probe
    return f"{task}, {length:,} tokens"


def source_loss(source: str) -> str:
    """Returns the name of the validation loss of a source."""
    return SOURCE_LOSS.name(source)


def source_perplexity(source: str) -> str:
    """Returns the name of the validation perplexity of a source."""
    return SOURCE_PERPLEXITY.name(source)


def bucket_loss(start: int, stop: int) -> str:
    """Returns the name of the validation loss of the tokens with index `start` to `stop - 1` in their row."""
    return BUCKET_LOSS.name(f"{start}-{stop}")


@dataclass(frozen=True)
class Entry:
    """What a name in metrics.jsonl stands for."""

    metric: Metric
    layer: int | None = None
    """Set if the scope is layer or head."""
    source: str | None = None
    """Set if the scope is source."""
    bucket: tuple[int, int] | None = None
    """First token index and the one after the last; set if the scope is bucket."""
    probe: tuple[str, int] | None = None
    """Task and length in tokens; set if the scope is probe."""


class MetricTable:
    """Finds what names stand for in a run with so many layers and maps of these symbols."""

    def __init__(self, num_layers: int, symbols: Mapping[str, str]) -> None:
        self._entries = {name: Entry(metric) for name, metric in RUN_METRICS.items()}
        for name, metric in STATISTICS.items():
            mean = Metric(metric.name, metric.label, metric.unit, metric.meaning, Scope.positions)
            self._entries[positions_metric(name)] = Entry(mean)
        of_layers = {**STATISTICS, **HEAD_SIGNALS, **signals(symbols)}
        for layer in range(num_layers):
            for name, metric in of_layers.items():
                self._entries[layer_metric(layer, name)] = Entry(metric, layer=layer)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "MetricTable":
        """Returns the table of a run with this plain config, which may be empty or of another version."""
        model = config.get("model")
        num_layers = model.get("num_layers") if isinstance(model, Mapping) else None
        is_known = isinstance(num_layers, int) and 0 < num_layers <= MAX_LAYERS
        return cls(num_layers if is_known and num_layers is not None else MAX_LAYERS, map_symbols(config))

    def names(self) -> Iterable[str]:
        """Returns all names but those that hold a key of the run's."""
        return self._entries.keys()

    def find(self, name: str) -> Entry | None:
        """Returns what a name stands for, or None if it is not a name of ours."""
        return self._entries.get(name) or _find_keyed(name)


def _find_keyed(name: str) -> Entry | None:
    for family in (SOURCE_LOSS, SOURCE_PERPLEXITY):
        if (source := family.key(name)) is not None:
            return Entry(family.metric, source=source)
    for family in PROBES:
        task, _, length = (family.key(name) or "").rpartition("-")
        if task and length.isdecimal() and family.name(f"{task}-{int(length)}") == name:
            return Entry(family.metric, probe=(task, int(length)))
    start, _, stop = (BUCKET_LOSS.key(name) or "").partition("-")
    if start.isdecimal() and stop.isdecimal() and bucket_loss(int(start), int(stop)) == name:
        return Entry(BUCKET_LOSS.metric, bucket=(int(start), int(stop)))
    return None
