"""`python -m evaluate suite`: lm-eval's tasks with the settings of the RePo paper, beside its numbers."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from common.files import write_text_whole
from evaluate.errors import EvaluateError
from evaluate.verbs.arguments import Verbs

if TYPE_CHECKING:
    from evaluate.suite.harness import Batch, Harness, Score
    from evaluate.suite.suites import Entry

SUITES = ("paper", "general", "local")
EXAMPLES = """
  python -m evaluate suite runs/demo/hf --suite local                     what needs no data from outside
  python -m evaluate suite exported/repo-1b --suite paper --dry-run       what would run, and the data to fetch before
  python -m evaluate suite exported/repo-1b --suite general --device cuda:0 --dtype bfloat16
"""


def add(verbs: Verbs) -> None:
    """Adds the verb to a command line."""
    verb = verbs.add("suite", "run published suites by lm-eval on an export, beside the paper's numbers", EXAMPLES)
    verb.add_argument("folder", type=Path, metavar="HF_FOLDER", help="an export, as `python -m model export` writes it")
    verb.add_argument("--suite", choices=SUITES, required=True, help="paper: RULER and LongBench; local: no downloads")
    verb.add_argument("--dry-run", action="store_true", help="print the commands and the data they need; run nothing")
    verb.add_argument("--task", metavar="NAME,NAME", help="only these tasks of the suite")
    verb.add_argument("--length", metavar="N,N", help="of RULER's prompts (default: 1, 2 and 4 times that of training)")
    verb.add_argument("--limit", type=int, metavar="N", help="samples of each task (default: 100 RULER, 5000 general)")
    verb.add_argument("--offline", action="store_true", help="do not look for data on the hub; always so with local")
    verb.add_argument("--device", default="cpu", help="as lm-eval has it: cpu (default), cuda:0")
    verb.add_argument("--dtype", default="float32", help="float32 (default) or bfloat16")
    verb.add_argument("--batch-size", type=int, default=1, metavar="N", help="default: 1")
    verb.add_argument("--lm-eval", type=Path, metavar="PATH", help="lm_eval or its environment (.venv-lm-eval)")
    verb.add_argument("--out", type=Path, metavar="DIR", help="default: evaluations/NAME, by the name of the folder")
    verb.set_defaults(run=_run, stopped="scores that are written stay, and the same command goes on")


def _run(options: argparse.Namespace) -> None:
    from evaluate.results import keep_settings
    from evaluate.suite.harness import PLACE, Harness, find_command
    from evaluate.suite.stretched import digest_of, read_config
    from report.evaluation.folder import EVALUATIONS

    folder = options.folder.absolute()
    trained = read_config(folder)["max_position_embeddings"]
    name = f"{folder.parent.name}-{folder.name}" if folder.name == "hf" else folder.name
    out = (options.out or EVALUATIONS / name).absolute()
    results = out / f"suite-{options.suite}"
    planned = _plan(options, folder, trained, results)
    command = PLACE if options.dry_run and options.lm_eval is None else find_command(options.lm_eval)
    is_offline = options.offline or options.suite == "local"
    harness = Harness(command, options.device, options.dtype, options.batch_size, is_offline)
    if options.dry_run:
        _print_plan(harness, planned, options.suite)
        return
    settings = {"export": digest_of(folder), "dtype": options.dtype, "limit": options.limit}
    keep_settings(results, settings)
    scores = _score(harness, planned, folder)
    _report(options.suite, out, scores, read_config(folder).get("hidden_size", 0))
    missing = [entry for entry, score in scores if isinstance(score, str)]
    if missing:
        raise EvaluateError(f"{len(missing)} of {len(scores)} tasks were not run; the same command goes on with them")


def _plan(options: argparse.Namespace, folder: Path, trained: int, results: Path) -> list["Batch"]:
    """Returns the tasks by command. Raises EvaluateError."""
    from evaluate.suite.harness import Batch
    from evaluate.suite.suites import entries

    try:
        lengths = [int(each) for each in options.length.split(",")] if options.length else []
    except ValueError:
        raise EvaluateError(f"--length {options.length}: give whole numbers, as in 4096,8192") from None
    if any(each < 1 for each in (*lengths, 1 if options.limit is None else options.limit)):
        raise EvaluateError("--length and --limit must be 1 or more")
    found = entries(options.suite, trained, lengths, options.limit)
    if options.task:
        wanted, known = options.task.split(","), {entry.task for entry in found}
        if stray := [each for each in wanted if each not in known]:
            raise EvaluateError(f"--task {stray[0]} is none of {options.suite}: it has {', '.join(sorted(known))}")
        found = [entry for entry in found if entry.task in wanted]
    by_batch: dict[str, list[Entry]] = {}
    for entry in found:
        by_batch.setdefault(entry.batch, []).append(entry)
    stretched = results / "models"
    return [
        Batch(own, stretched / f"{folder.name}-yarn-{factor:g}" if factor else folder, results / name)
        for name, own in by_batch.items()
        for factor in [own[0].factor]
    ]


def _print_plan(harness: "Harness", planned: list["Batch"], suite: str) -> None:
    from evaluate.suite.suites import NOT_COVERED

    print(f"# {len(planned)} commands, each run in the top folder of the clone:")
    print("\n".join(map(harness.shown, planned)))
    print("\n".join(["", *_data(planned, harness.command)]))
    for said in NOT_COVERED[suite]:
        print(f"# not covered: {said}")


def _data(planned: list["Batch"], command: Path) -> list[str]:
    """Returns what has to be fetched before, with the commands that do."""
    data = list(dict.fromkeys(each for batch in planned for entry in batch.entries for each in entry.data))
    if not data:
        return ["# no data from outside is needed"]
    lines = ["# data, to be fetched before, where there is a network (into HF_HOME, which can be copied):"]
    python = command.with_name("python")
    lines += [f'{python} -P -c "{each.fetch}"   # {each.name}' for each in data if each.fetch is not None]
    lines += [f"# read from the network at each run, and never kept: {each.name}" for each in data if not each.fetch]
    return lines


def _score(harness: "Harness", planned: list["Batch"], folder: Path) -> list[tuple["Entry", "Score | str"]]:
    """Runs each command, and returns each task with its score or with why there is none."""
    from evaluate.suite.stretched import stretch

    found: list[tuple[Entry, Score | str]] = []
    for batch in planned:
        factor = batch.entries[0].factor
        if factor is not None:
            stretch(folder, factor, batch.model)
        scores = harness.run(batch)
        for entry in batch.entries:
            score = scores if isinstance(scores, str) else scores[entry.task]
            said = f"not run: {score}{_needs(entry)}" if isinstance(score, str) else f"{score.value:.1f} %"
            print(f"{entry.name}: {said}", file=sys.stderr, flush=True)
            found.append((entry, score))
    return found


def _needs(entry: "Entry") -> str:
    names = ", ".join(each.name for each in entry.data)
    return f"; it needs {names} (--dry-run says how to fetch it)" if names else ""


def _report(suite: str, out: Path, scores: list[tuple["Entry", "Score | str"]], hidden_size: int) -> None:
    from evaluate.suite.published import published
    from evaluate.suite.suites import NOT_COVERED
    from evaluate.suite.tables import csv_table, markdown

    size, paper = published(hidden_size)
    paper = paper if any(entry.column for entry, _ in scores) else {}
    text = markdown(scores, size, paper) + "".join(f"\nNot covered: {said}.\n" for said in NOT_COVERED[suite])
    write_text_whole(out / f"suite-{suite}.md", text, durable=False)
    write_text_whole(out / f"suite-{suite}.csv", csv_table(scores, size, paper), durable=False)
    print(text, end="")
    print(f"{out}: suite-{suite}.md, suite-{suite}.csv, and what lm-eval wrote in suite-{suite}/")
