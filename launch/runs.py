"""Verbs about runs that exist: their status, a comparison of several, and the end of one. None needs torch.

python -m launch status [ROOT] [--watch]        a line per run in ROOT (default: runs)
python -m launch compare RUN RUN ... [--csv FILE] [--page FILE]
python -m launch stop RUN                       save a checkpoint and stop; the run's own command continues it
"""

import argparse
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from common.command_line import Parser
from common.errors import UserError
from common.files import write_text_whole
from launch.hostfile import ask_over_ssh, first_host
from launch.slurm.jobs import Job, cancel, live_jobs
from report.comparison import Comparison, compare
from report.comparison_table import aligned, csv_table, figure, text_table
from report.overview import Overview, find_runs, overview
from report.run_folder import Holder, RunFiles
from train.config import RunConfig
from train.errors import EXIT_OK, EXIT_USER_ERROR, TrainError

STATUS_HEADER = ["run", "state", "step", "loss", "eval loss", "tokens/s", "left", "checkpoint", "alerts", "where"]
BESIDE_RUNS = ("-compared.html", "-search", "-slurm")
"""How the names of what sweeps write beside their runs end."""
RUNS = Path(RunConfig.run_root)
"""Where runs lie if run_root is not set."""
EXAMPLES = """examples:
  python -m launch status                                          every run in runs
  python -m launch status demo --watch                             one, again and again, until Ctrl-C
  python -m launch compare demo demo-backbone                      on the screen
  python -m launch compare runs/lr-* --csv lr.csv --page lr.html   several, also as a table and as a page
  python -m launch stop demo                                       on this machine, over SSH, or by SLURM"""
STOP_SECONDS = 600.0  # that `stop` waits for a checkpoint before it says that the run is still saving


def main(verb: str, arguments: Sequence[str]) -> int:
    """Runs one of VERBS; a mistake is one line on standard error. Returns the exit code."""
    try:
        return VERBS[verb](arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        return EXIT_OK
    return EXIT_USER_ERROR


def print_status(arguments: Sequence[str]) -> int:
    """Prints a line per run, again and again with --watch. Raises TrainError if there is no run."""
    parser = _parser("status", "how far each run is, and whether it is alive")
    parser.add_argument("root", type=Path, nargs="?", default=RUNS, help="folder of runs, or one run")
    parser.add_argument("--watch", action="store_true", help="print again and again, until Ctrl-C")
    parser.add_argument("--seconds", type=float, default=5.0, help="between two prints of --watch (default: 5)")
    given = parser.parse_args(arguments)
    root = folder_of(given.root)
    while True:
        runs = find_runs(root)
        if not runs:
            advice = f"name the folder of runs, such as {RUNS}"
            if root == RUNS:
                advice = "start one with `python -m launch experiment=NAME`, or name another folder of runs"
            raise TrainError(f"there is no run in {root}: {advice}")
        jobs, trouble = jobs_or_trouble(runs)
        lines = [*status_lines([overview(files) for files in runs], jobs), *trouble]
        if not given.watch:
            print("\n".join(lines))
            return EXIT_OK
        print("\033[2J\033[H" + "\n".join([*lines, "", time.strftime("%H:%M:%S; Ctrl-C ends this")]), flush=True)
        time.sleep(pause(given.seconds))


def folder_of(named: Path) -> Path:
    """Returns the folder that a person names: as typed, or, if there is none, the run of that name in RUNS."""
    in_runs = RUNS / named
    return in_runs if not named.exists() and in_runs.is_dir() else named


def pause(seconds: float) -> float:
    """Returns how long --watch waits: at least half a second and at most a day, also for what is no number."""
    return min(max(0.5, seconds), 86400.0)


def jobs_of(runs: Sequence[RunFiles]) -> dict[str, Job]:
    """Returns the jobs of the runs that SLURM knows as not ended, by the name of the run.

    Raises TrainError if there are runs with a job and the scheduler does not answer.
    """
    ids = {files.path.resolve().name: job for files in runs if (job := files.job_id())}
    live = live_jobs() if ids else {}
    return {name: live[job] for name, job in ids.items() if job in live}


def jobs_or_trouble(runs: Sequence[RunFiles]) -> tuple[dict[str, Job], list[str]]:
    """Returns the jobs of the runs, and a line that says why they are not known if SLURM does not answer."""
    try:
        return jobs_of(runs), []
    except TrainError as error:
        return {}, [f"jobs are not shown: {error}"]


def place(run: Overview, job: Job | None) -> str:
    """Returns where a run is: its job, if it has one, and the process that trains it."""
    parts = [job.text] if job else []
    if run.is_alive and not (job and job.is_waiting):
        parts.append(run.place)
    return ", ".join(parts)


def status_lines(runs: Sequence[Overview], jobs: Mapping[str, Job]) -> list[str]:
    """Returns a header and a line per run; `jobs` by the names of runs."""
    rows = [
        [
            run.name,
            run.state,
            str(run.step) if run.max_steps is None else f"{run.step}/{run.max_steps}",
            figure(run.loss, 3),
            figure(run.eval_loss, 3),
            "" if run.tokens_per_second is None else f"{run.tokens_per_second:,.0f}",
            "" if run.seconds_left is None else duration(run.seconds_left),
            "" if run.checkpoint is None else str(run.checkpoint),
            "" if run.open_alerts is None else str(run.open_alerts),
            place(run, jobs.get(run.name)),
        ]
        for run in runs
    ]
    return aligned([STATUS_HEADER, *rows])


def duration(seconds: float) -> str:
    """Returns a time as days and hours, hours and minutes, or minutes and seconds."""
    for unit, name, part, part_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= unit:
            return f"{int(seconds // unit)} {name} {int(seconds % unit // part)} {part_name}"
    return f"{int(seconds)} s"


def print_comparison(arguments: Sequence[str]) -> int:
    """Prints the table of several runs, and writes it as CSV and as a page where that is asked for."""
    parser = _parser("compare", "what differs between runs, and how well each does at equal tokens")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="runs, or folders of runs")
    parser.add_argument("--csv", type=Path, help="write the table there too, unrounded")
    parser.add_argument("--page", type=Path, help="write a page with curves there too, such as compare.html")
    given = parser.parse_args(arguments)
    for option, file in (("--csv", given.csv), ("--page", given.page)):
        if file is not None and not file.parent.is_dir():
            raise TrainError(f"{option} {file}: there is no folder {file.parent}; make it with mkdir -p {file.parent}")
    paths = [path for path in given.runs if not path.name.endswith(BESIDE_RUNS)]  # `compare runs/NAME-*` has them
    folders = [files for path in map(folder_of, paths) for files in find_runs(path) or [RunFiles(path)]]
    comparison = compare(folders)
    print(text_table(comparison))
    if given.csv is not None:
        write_text_whole(given.csv, csv_table(comparison), durable=False)
        print(f"table: {given.csv}")
    if given.page is not None:
        _write_page(comparison, given.page.stem, given.page)
        print(f"page: {given.page}")
    return EXIT_OK


def print_sweep(name: str, members: Sequence[RunFiles]) -> Comparison | None:
    """Prints and returns the comparison of a sweep's members, and writes its page beside their folders.

    Fewer than two are not compared.

    A member that has no step, because it failed or was not reached, is named and left out.
    """
    for files in members:
        if not files.read_metrics():
            print(f"{files.path.name} has no step, and is not compared")
    if (written := write_comparison(name, members)) is None:
        return None
    comparison, page = written
    print(f"\n{text_table(comparison)}\npage: {page}")
    return comparison


def best_run(files: RunFiles, why: str, arguments: Sequence[str]) -> list[str]:
    """Returns which run of several is the best, and the command that starts a run from its weights, to copy.

    `arguments` are those that trained it, of which the new run keeps its settings.
    """
    kept = [argument for argument in arguments if not argument.startswith(("name=", "init_from=", "wandb.group="))]
    command = shlex.join([*kept, "name=NEW", f"init_from={files.path}"])
    return [f"best: {files.path.name}, {why}", f"  start a run from its weights: python -m launch {command}"]


def write_comparison(name: str, members: Sequence[RunFiles]) -> tuple[Comparison, Path] | None:
    """Writes the page that compares the members of a sweep; returns both, or None for fewer than two with a step."""
    trained = [files for files in members if files.read_metrics()]
    if len(trained) < 2:
        return None
    comparison = compare(trained)
    page = trained[0].path.parent / f"{name}-compared.html"
    _write_page(comparison, name, page)
    return comparison, page


def _write_page(comparison: Comparison, name: str, page: Path) -> None:
    from report.comparison_page import comparison_data  # numpy, which other verbs do without
    from report.page import write_page

    write_page(comparison_data(comparison, name), page, "comparison")


def stop_run(arguments: Sequence[str]) -> int:
    """Asks what trains a run to save and stop, and waits until it has ended: its process, or its SLURM job.

    Raises TrainError if nothing trains it, or if that cannot be reached from this machine.
    """
    parser = _parser(
        "stop", "save a checkpoint and stop (a sweep stops with its member); the same command continues it"
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run, such as demo or runs/demo")
    files = RunFiles(folder_of(parser.parse_args(arguments).run))
    if not files.path.is_dir():
        raise TrainError(f"there is no run folder {files.path}: `python -m launch status` lists those in {RUNS}")
    if job := jobs_of([files]).get(files.path.resolve().name):
        return _stop_job(files, job)
    holder = files.holder()
    if holder is None:
        raise TrainError(f"nothing trains {files.path}: `python -m launch status` lists what runs")
    alive = holder.is_alive()
    if alive is False:
        raise TrainError(f"nothing trains {files.path} any more: {holder.text} has ended")
    if alive is None:
        return _stop_elsewhere(files, holder)
    os.kill(holder.pid, signal.SIGTERM)
    print(f"{files.path.name}: asked {holder.text} to save and stop", flush=True)
    return _wait_for_end(files, holder.text, lambda: not holder.is_alive())


def _stop_job(files: RunFiles, job: Job) -> int:
    cancel(job)
    if job.is_waiting:
        print(f"{files.path.name}: job {job.id} is taken out of the queue; nothing of it ran")
        return EXIT_OK
    print(f"{files.path.name}: asked {job.text} to save and stop", flush=True)
    return _wait_for_end(files, f"job {job.id}", lambda: job.id not in live_jobs(), poll=1.0)


def _stop_elsewhere(files: RunFiles, holder: Holder) -> int:
    host = first_host(files.read_config())
    if host is None or not ask_over_ssh(host, files):
        raise TrainError(
            f"{files.path} is trained by {holder.text}: stop it there, by the same command or `kill {holder.pid}`, or "
            "with the scheduler that started it (SLURM: scancel --batch --signal=TERM JOB)"
        )
    print(f"{files.path.name}: asked {holder.text} to save and stop; `python -m launch status` says when it has")
    return EXIT_OK


def _wait_for_end(files: RunFiles, what: str, has_ended: Callable[[], bool], poll: float = 0.1) -> int:
    """Prints the newest checkpoint once it has ended. Raises TrainError if that takes STOP_SECONDS."""
    deadline = time.monotonic() + STOP_SECONDS
    while not has_ended():
        if time.monotonic() > deadline:
            raise TrainError(f"{what} is still saving after {STOP_SECONDS:.0f} s: see `python -m launch status`")
        time.sleep(poll)
    step = files.newest_checkpoint()
    print("it has ended" + ("" if step is None else f"; its newest checkpoint is of step {step}"))
    return EXIT_OK


def _parser(verb: str, what: str) -> Parser:
    prog = f"python -m launch {verb}"
    title, *lines = EXAMPLES.splitlines()
    examples = "\n".join([title, *(line for line in lines if line.startswith(f"  {prog} "))])
    return Parser(prog=prog, description=what, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter)


VERBS = {"status": print_status, "compare": print_comparison, "stop": stop_run}
"""Every verb by its name."""
