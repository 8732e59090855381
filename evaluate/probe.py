"""Runs probes on a model: each sample by generation and by the log-likelihood of its right answer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from evaluate.config import ProbeConfig
from evaluate.errors import EvaluateError
from evaluate.haystack import open_haystack
from evaluate.results import Results, Row, Summary, summary
from evaluate.samples import Fitted, Samples
from evaluate.subject import Subject
from evaluate.tasks import build_tasks
from evaluate.tasks.task import Task
from evaluate.too_long import Smallest, TooLongError, said_together

EXTENDABLE = ("task", "length", "num_samples", "save_prompts")  # may differ between starts with one folder
Report = Callable[[str, int, int, int], None]  # task, length, samples done, of


def settings_of(config: ProbeConfig) -> dict[str, Any]:
    """Returns what a sample and its result depend on, the model left out. Raises EvaluateError."""
    settings = {key: value for key, value in asdict(config).items() if key not in EXTENDABLE}
    settings["haystack"] = open_haystack(config.haystack).digest
    settings["yarn"] = {str(length): factor for length, factor in config.yarn.items()}  # as JSON has it
    if not config.generate and config.max_new_tokens is None:
        settings["reserved"] = "answer"  # that prompts leave room for; earlier versions left max_new_tokens and no key
    return {key: value.value if isinstance(value, Enum) else value for key, value in settings.items()}


@dataclass(frozen=True)
class Planned:
    """A task at a length."""

    name: str
    length: int
    task: Task
    samples: Samples


def plan(subject: Subject, config: ProbeConfig) -> tuple[list[Planned], list[str]]:
    """Returns what there is to run, and why the rest is left out, a line for each reason.

    Left out is what does not fit a length, if the config names no tasks. Raises EvaluateError for an unknown task, for
    one that is named and does not fit, and if none fits.
    """
    planned: list[Planned] = []
    too_long: list[Smallest] = []
    others: dict[str, list[str]] = {}
    for name, task in build_tasks(config).items():
        for length in config.length:
            samples = Samples(name, task, length, config, subject.encode)
            try:
                samples.check()
            except EvaluateError as error:
                if config.task:
                    raise
                if isinstance(error, TooLongError):
                    too_long.append(error.smallest)
                else:
                    others.setdefault(str(error), []).append(f"{name} at length={length}")
            else:
                planned.append(Planned(name, length, task, samples))
    if not planned:
        raise EvaluateError(f"no task fits: {_shortest(too_long) if too_long else next(iter(others))}")
    return planned, [*said_together(too_long), *(f"{', '.join(names)}: {why}" for why, names in others.items())]


def _shortest(smallest: list[Smallest]) -> str:
    return min(smallest, key=lambda each: each.taken).said()


def run_all(
    subjects: Mapping[int, Subject],
    config: ProbeConfig,
    planned: Sequence[Planned],
    results: Results,
    report: Report,
) -> tuple[list[Summary], list[str]]:
    """Runs what is planned, each length on its subject. Returns the means, and why samples are left out, a line each.

    A task that turns out too long at a later sample is given up there: the samples before it stay and count. Raises
    what `run` does; TooLongError only if the config names the tasks.
    """
    summaries: list[Summary] = []
    given_up: list[str] = []
    for each in planned:
        try:
            summaries.append(run(subjects[each.length], config, each, results, report))
        except TooLongError as error:
            if config.task:
                raise
            rows = [row for index, row in results.rows(each.name, each.length).items() if index < config.num_samples]
            given_up.append(f"{config.num_samples - len(rows)} of {config.num_samples} samples of {each.name}: {error}")
            if rows:
                summaries.append(summary(each.name, each.length, rows))
                given_up[-1] += f"; the table has the mean of the other {len(rows)}"
    return summaries, given_up


def run(subject: Subject, config: ProbeConfig, planned: Planned, results: Results, report: Report) -> Summary:
    """Runs the samples that the results lack, and returns the means over all. `report` gets the progress.

    Raises TooLongError if a sample does not fit the length, and OSError if a row cannot be written.
    """
    name, length = planned.name, planned.length
    rows, writer = results.rows(name, length), results.writer(name, length)
    for index in range(config.num_samples):
        if index not in rows:
            rows[index] = _row(subject, config, planned.task, index, planned.samples[index])
            writer.append_now(rows[index])
        report(name, length, index + 1, config.num_samples)
    return summary(name, length, [rows[index] for index in range(config.num_samples)])


def _row(subject: Subject, config: ProbeConfig, task: Task, index: int, fitted: Fitted) -> Row:
    output = score = None
    if config.generate:
        output = subject.decode(subject.continued(fitted.prompt, fitted.max_new_tokens))
        score = task.score(output, fitted.sample.gold)
    wrong_nll = [subject.nll(fitted.prompt, each) for each in fitted.wrong_answers]
    return {
        "index": index,
        "size": fitted.size,
        "tokens": fitted.num_tokens,
        "gold": list(fitted.sample.gold),
        "output": output,
        "score": score,
        "nll": subject.nll(fitted.prompt, fitted.answer),
        "answer_tokens": len(fitted.answer),
        **({"wrong_nll": wrong_nll} if wrong_nll else {}),
        **({"prompt": fitted.sample.prompt} if config.save_prompts else {}),
    }
