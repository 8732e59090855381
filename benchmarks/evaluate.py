"""What evaluation costs: probes and the validation loss in steps of training, and seconds per sample of a probe.

    python -m benchmarks.evaluate                 the demo's model, on whatever device there is
    python -m benchmarks.evaluate --experiment repo-1b-50b global_batch_size=32      another size

One process makes training steps on random tokens, evaluations of the validation rows, probes by likelihood, and the
same with generated answers, in turn, after one untimed turn; medians. Then it asks the same questions as
`python -m evaluate probe` does, one sample at a time. On a CPU seconds are those of the process, which do not grow on a
busy machine; on a GPU wall time.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from tokenizers import Tokenizer

from benchmarks.figures import Figure, markdown_table, report
from benchmarks.step import clock, configured, one_step
from data.tools.sample import build_sample
from evaluate.config import ProbeConfig
from evaluate.probe import plan, run
from evaluate.results import Results
from evaluate.subject import ModelSubject
from model.weights import random_weights
from train.config import RunConfig
from train.distributed import Ranks, leave
from train.engine.build import build_engine
from train.engine.engine import Engine
from train.evaluation.base import EvaluationTask
from train.evaluation.probes import Probes
from train.evaluation.validation_loss import ValidationLoss

TASKS = ["niah_single_1", "copy", "table_cell_csv", "connectivity"]
MEGABYTES = 2.0
DATA = ["data=sample", "data.validation.share=0.5"]  # a small corpus has few documents


def seconds(device: torch.device, work: Callable[[], object]) -> float:
    """Returns the seconds of `work`: of the process on a CPU, by the wall on a GPU."""
    start = clock(device)
    work()
    return clock(device) - start


def costs(engine: Engine, ranks: Ranks, config: RunConfig, repeats: int) -> dict[str, float]:
    """Returns the median seconds of a training step, of an evaluation, and of probes without and with generating."""
    tasks: dict[str, EvaluationTask | None] = {"an evaluation": ValidationLoss.build(config)}
    for generate, name in ((False, "probes"), (True, "probes with answers")):
        config.evaluation.probes = replace(config.evaluation.probes, generate=generate)
        tasks[name] = Probes.build(config)
    shape = (config.global_batch_size, config.sequence_length)
    tokens = torch.randint(config.model.vocab_size, shape, device=ranks.device)
    works: dict[str, Callable[[], object]] = {"a step": lambda: one_step(engine, config, tokens)}
    for name, task in tasks.items():
        assert task is not None
        works[name] = lambda task=task: task.run(engine, ranks, lambda: False)  # type: ignore[misc]
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats + 1):
        for name, work in works.items():
            found[name].append(seconds(ranks.device, work))
    return {name: statistics.median(values[1:]) for name, values in found.items()}


def rates(subject: ModelSubject, probes: ProbeConfig) -> list[tuple[str, ...]]:
    """Returns rows of a table: seconds per sample of each task of the command, without and with generating."""
    rows = []
    for planned in plan(subject, replace(probes, generate=True))[0]:
        taken = []
        for generate in (False, True):
            config = replace(probes, generate=generate)
            with tempfile.TemporaryDirectory() as folder:
                results = Results(Path(folder), {})
                work = lambda: run(subject, config, planned, results, lambda *done: None)  # noqa: E731, B023
                taken.append(seconds(subject.device, work) / config.num_samples)
        new = planned.samples[0].max_new_tokens
        rows.append((planned.name, str(planned.length), str(new), *(f"{seconds:.3f}" for seconds in taken)))
    return rows


def main() -> None:
    """Reports the costs during training, then the seconds per sample of the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluate", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--experiment", default="demo")
    parser.add_argument("--corpus", type=Path, help="a folder of `python -m data sample`; default: a small one is made")
    parser.add_argument("--length", type=int, default=512, help="tokens of a probe with its answer")
    parser.add_argument("--repeats", type=int, default=3, help="timed turns")
    parser.add_argument("--samples", type=int, default=16, help="of each task")
    parser.add_argument("--interval", type=int, default=1000, help="steps between evaluations and between probes")
    parser.add_argument("overrides", nargs="*", help="key=value of the config")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        corpus = arguments.corpus or Path(folder) / "sample"
        if arguments.corpus is None:
            build_sample(corpus, megabytes=MEGABYTES, report=lambda message: None)
        measure(arguments, corpus.resolve())


def measure(arguments: argparse.Namespace, corpus: Path) -> None:
    """Reports the costs during training and of the command, with the text and the tokenizer of a sample."""
    ranks = Ranks()
    ranks.join()
    config = configured(arguments.experiment, "repo", [*DATA, f"data.root={corpus}", *arguments.overrides])
    length = arguments.length
    config.evaluation.probe_interval = arguments.interval
    config.evaluation.probes = ProbeConfig(
        task=TASKS, length=[length], num_samples=arguments.samples, value_digits=2, max_items=20
    )
    engine = build_engine(config, ranks, random_weights(config.model, config.positions, config.seed))
    device = torch.cuda.get_device_name() if ranks.device.type == "cuda" else "CPU"
    shape = f"{config.global_batch_size} x {config.sequence_length}"
    asked = f"{len(TASKS)} tasks x {arguments.samples} samples of {length} tokens"
    print(f"{arguments.experiment} on {device}, torch {torch.__version__}, {shape} tokens a step; probes: {asked}")
    found = costs(engine, ranks, config, arguments.repeats)
    step = found["a step"]
    report(Figure("a step", step, "s"))
    for name in [*found][1:]:
        report(
            Figure(f"{name}, in steps of training", found[name] / step),
            Figure(f"{name} every {arguments.interval} steps", 100 * found[name] / (arguments.interval * step), "%"),
        )
    tokenizer = Tokenizer.from_file(str(corpus / "tokenizer.json"))
    subject = ModelSubject(engine.model, tokenizer, ranks.device, [config.model.eos_token_id])
    titles = ("task", "tokens", "new tokens, at most", "seconds a sample", "with an answer")
    print(markdown_table(titles, rates(subject, config.evaluation.probes)))
    engine.close()


if __name__ == "__main__":
    main()
    leave(0)
