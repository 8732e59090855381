"""The callbacks that a run has, in the order in which they are called."""

from functools import partial

from model.accounting import flops_per_token
from train.callbacks import weights_and_biases
from train.callbacks.callback import Callback
from train.callbacks.checkpointer import Checkpointer
from train.callbacks.compile_report import CompileReport
from train.callbacks.config import WandbMode
from train.callbacks.console import ConsoleReport
from train.callbacks.evaluator import Evaluator
from train.callbacks.garbage import GarbageCollector
from train.callbacks.metrics_file import EventLog, MetricsFile
from train.callbacks.position_probes import PositionProbes, find_encoder
from train.callbacks.position_watch import PositionWatch
from train.callbacks.profile import Profiler
from train.callbacks.report import Report
from train.callbacks.slow_steps import SlowSteps
from train.callbacks.throughput import Throughput
from train.config import RunConfig
from train.engine.memory import memory
from train.huggingface.export import export_parameters


def build_callbacks(config: RunConfig) -> list[Callback]:
    """Returns first what measures, then what reports, then what acts."""
    length, warmup = config.sequence_length, max(config.schedule.warmup_steps, config.optimizer.repo_warmup_steps)
    batch = f"{config.global_batch_size} x {length} tokens; positions {config.positions.scheme}"
    callbacks: list[Callback] = [
        SlowSteps(config.watchdog.slow_step_factor),
        Throughput(
            config.global_batch_size * length,
            partial(flops_per_token, config.model, config.positions, length),
            partial(memory, config, on_gpu=True),
        ),
        CompileReport(),
        PositionWatch(config.position_watch, length, warmup),
        PositionProbes(config.position_watch.probe_interval, length, partial(find_encoder, config)),
        MetricsFile(),
        ConsoleReport(config.logging.console_interval, batch),
        Checkpointer(config.checkpoint, None if config.export_problem() else partial(export_parameters, config)),
        EventLog(),
    ]
    if config.logging.report_seconds is not None:
        callbacks.append(Report(config.logging.report_seconds))
    if config.wandb.mode is not WandbMode.disabled:
        callbacks.append(weights_and_biases.for_run(config))  # last of the sinks: at the end it may wait for a network
    if config.evaluation.enabled:  # after the sinks: a resumed run may log an evaluation when it starts
        callbacks.append(Evaluator(config.evaluation.interval))
    if config.profile.steps:  # first: what the others do in a step is in its trace, not what the profile costs
        callbacks.insert(0, Profiler(config.profile))
    return [*callbacks, GarbageCollector(config.logging.gc_interval)]
