"""The list of callbacks that a run has, in the order in which they are called."""

from train.callbacks.callback import Callback
from train.callbacks.checkpointer import Checkpointer
from train.callbacks.console import ConsoleReport
from train.callbacks.garbage import GarbageCollector
from train.callbacks.metrics_file import EventLog, MetricsFile
from train.callbacks.position_probes import PositionProbes
from train.callbacks.position_watch import PositionWatch
from train.callbacks.report import Report
from train.callbacks.slow_steps import SlowSteps
from train.callbacks.throughput import Throughput
from train.callbacks.weights_and_biases import WeightsAndBiases
from train.config import RunConfig


def build_callbacks(config: RunConfig) -> list[Callback]:
    """Returns the callbacks of a run: those that measure come first, then those that report, then those that act."""
    return [
        SlowSteps(config.watchdog.slow_step_factor),
        Throughput(config),
        PositionWatch(config),
        PositionProbes(config),
        MetricsFile(),
        ConsoleReport(config),
        Checkpointer(config),
        EventLog(),
        Report(config),
        WeightsAndBiases(config),  # after all that matters: at the end it may wait for a network
        GarbageCollector(config.logging.gc_interval),
    ]
