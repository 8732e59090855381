"""python -m launch: start a job on this machine, or a sweep of jobs in turn.

  python -m launch experiment=demo                                 one job; the same command again continues it
  python -m launch experiment=repo-1b-50b launch.processes=8       the real job on eight GPUs
  python -m launch experiment=demo wandb.mode=online name=mine     any key can be set
  python -m launch -m experiment=demo optimizer.lr=1e-3,3e-3       a sweep: one run folder per combination
  python -m launch sweep=schemes experiment=demo                   a sweep of configs/sweep/; the same again: the rest
  python -m launch sweep=optuna experiment=repo-1b-50b             a search with Optuna; several launchers share it
  python -m launch sweep=optuna experiment=... --wandb-sweep FILE  the same space for `wandb sweep` and `wandb agent`
  python -m launch experiment=repo-1b-50b data=~/mine.yaml         a config file of your own, wherever it lies
  python -m launch experiment=repo-1b-50b --cfg job                print the whole recipe and start nothing
  python -m launch experiment=repo-1b-50b --dry-run                print what would run, also of a sweep
  python -m launch experiment=repo-1b-50b launch=slurm launch.nodes=2 launch.slurm.partition=gpu       a SLURM job
  python -m launch experiment=repo-1b-50b launch=nodes launch.nodes=2 launch.rendezvous=node0:29400    on each machine
  python -m launch keys [PATTERN]                                  print keys: default, type, meaning
  python -m launch status [ROOT] [--watch]                         list runs: step, loss, speed, what is alive
  python -m launch compare RUN RUN ... [--page FILE]               what differs, and how well each does
  python -m launch plan experiment=repo-1b-50b --gpus 8            memory, days, disk of a run, and what to change
  python -m launch doctor experiment=repo-1b-50b                   check machine, data, weights and links before a start
  python -m launch stop RUN                                        save a checkpoint and stop

The run folder is runs/NAME. Exit codes: 0 finished, 2 a mistake that one line explains, 75 stopped by a signal after
saving (run the same command again), 76 stopped by the position watch after saving; docs/reliability.md has the others.
"""

import contextlib
import importlib
import os
import re
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from common.command_line import close_verb
from common.console import keep_on_without_reader
from common.processes import PARENT
from common.words import counted
from launch import runs
from launch.hostfile import over_ssh
from launch.kept_names import with_kept_names
from launch.keys import print_keys
from launch.local import Foreground, check_meeting, on_this_machine, run_in_foreground
from launch.search.wandb_sweep import write_wandb_sweep
from launch.slurm.submit import print_submission, submit
from launch.sweep import compare_members, is_finished, run_sweep
from report.comparison import differing, flat
from report.metrics import CE_LOSS
from train.callbacks.config import WandbMode
from train.compose.app import hydra_app, load_run_config, reported, save_run_config
from train.compose.command_line import is_sweep
from train.compose.errors import is_known
from train.compose.groups import options
from train.compose.outside import as_given
from train.compose.search import Search, is_search, search_app
from train.compose.sweep import Member, sweep_app
from train.config import RunConfig
from train.errors import EXIT_ALERTED, EXIT_OK, EXIT_STOPPED, EXIT_USER_ERROR, StopReason, TrainError
from train.launch_config import LaunchWay
from train.processes import stop_with_parent
from train.run_folder import RunFolder, explained_write_errors
from train.signals import ignore_stop_signals

DRY_RUN = "--dry-run"
VERBS = ("keys", "plan", "doctor", *runs.VERBS)
WANDB_SWEEP = "--wandb-sweep"
MAY_CHANGE = {"max_steps", "stop_step", "data.root", "data.cache_dir"}
"""Keys with which a finished run goes on, whatever it had."""


def launch(config: RunConfig) -> int:
    """Starts a run in the way that its config says; returns the exit code."""
    if config.launch.way is LaunchWay.slurm:
        return submit([config])
    if config.launch.way is LaunchWay.kubernetes:
        return print_manifest([config])
    return run_here(config)


def foreground_of(config: RunConfig) -> Foreground:
    """Returns what runs a job whose launcher waits for its end. Raises TrainError if it cannot be started like this."""
    return on_this_machine(config) if config.launch.hostfile is None else over_ssh(config)


def print_manifest(configs: Sequence[RunConfig]) -> int:
    """Prints the Kubernetes manifest of runs; returns the exit code."""
    from launch.kubernetes import manifest

    print(manifest(configs), end="")
    return EXIT_OK


def run_here(config: RunConfig) -> int:
    """Writes the composed config into the run folder, runs the job, prints how it ended; returns the exit code."""
    from launch.inputs import check_inputs  # here, as it imports numpy and all that reads data

    check_inputs(config)
    folder = RunFolder.of(config)
    job = foreground_of(config)
    check_meeting(config)
    with explained_write_errors(folder.path):
        save_run_config(config, folder.launch)
    try:
        code = run_in_foreground(job)
    finally:
        with contextlib.suppress(OSError):
            folder.launch.unlink()
        folder.remove_if_unused()
    event = folder.last_event() or {}
    if code == EXIT_OK and event.get("reason") == StopReason.finished.word:
        steps = counted(event.get("step", 0), "step")
        print(f"\n{config.name} is finished after {steps}{loss_change(folder)}: {folder.path}")
        print(next_steps(config, folder))
    elif code == EXIT_OK and event.get("reason") == StopReason.stop_step.word:
        print(f"\n{config.name} is at its stop_step, {event.get('step')} of {config.max_steps}: {folder.path}")
    elif code == EXIT_STOPPED:
        where = f"after step {event.get('step')}" if event.get("event") == "stop" else "before its first step"
        print(f"\n{config.name} is stopped {where}; the same command continues it: {folder.path}")
    elif code == EXIT_ALERTED:
        print(
            f"\n{config.name} is stopped after step {event.get('step', '?')}, because of an alert: see {folder.events}"
        )
        print("  the same command continues it; with position_watch.policy=warn, alerts do not stop a run")
    return code


def loss_change(folder: RunFolder, window: int = 10) -> str:
    """Returns the mean loss of the first and of the last logged steps, in words; nothing if they overlap."""
    losses = [row[CE_LOSS] for row in folder.read_metrics() if row.get(CE_LOSS) is not None]
    if len(losses) < 2 * window:
        return ""
    first, last = sum(losses[:window]) / window, sum(losses[-window:]) / window
    return f", loss {first:.2f} -> {last:.2f} (means of {window})"


def next_steps(config: RunConfig, folder: RunFolder) -> str:
    """Returns what can be done with a finished run, as lines with commands to copy."""
    python = Path(sys.executable)
    if python.is_relative_to(Path.cwd()):
        python = python.relative_to(Path.cwd())
    replaced = ("name=", "init_from=", "max_steps=", "schedule.decay_steps=")
    given = as_given(sys.argv[1:])
    trained = trained_with(given, config, folder)
    again = [argument for argument in (given if trained is None else trained) if not argument.startswith(replaced)]
    lines = [("the metrics of every step", f"{folder.metrics}")]
    if trained is not None:
        name = [argument for argument in trained if argument.startswith(("name=", "init_from="))]
        done = flat(folder.read_config())
        longer = twice_as_long(done.get("max_steps", 0), done.get("schedule.decay_steps", 0))
        lines.append(("train longer", f"{python} -m launch {shlex.join([*again, *name, *longer])}"))
    if folder.report.exists():
        lines.insert(0, ("the run on one page", f"{folder.report}"))
    if config.wandb.mode is WandbMode.offline:
        lines.append(("look at it in W&B", f"{python.parent / 'wandb'} sync {folder.wandb}/offline-run-*"))
    if config.checkpoint.export_hf and config.export_problem() is None:
        lines.insert(1, ("weights, Hugging Face layout", f"{folder.hf}"))
        start = ["name=NEW", f"init_from={folder.path}"]
        lines.append(("start a run from them", f"{python} -m launch {shlex.join([*again, *start])}"))
    return "\n".join(f"  {what:<30}{how}" for what, how in lines)


def twice_as_long(steps: int, decayed: int) -> list[str]:
    """Returns settings for twice the steps: a decay that ended with the run, or before it, ends as much later."""
    return [f"max_steps={2 * steps}", f"schedule.decay_steps={max(decayed, min(decayed, steps) + steps)}"]


def trained_with(arguments: Sequence[str], config: RunConfig, folder: RunFolder) -> list[str] | None:
    """Returns the arguments without those that a finished run was not trained with; None if others are missing then.

    A finished run is not trained again, whatever is typed; with its name, only the config that it has can go on.
    """
    now = flat(config.as_plain())
    changed = set(differing([flat(folder.read_config()), now])) - MAY_CHANGE
    if changed:  # slower: it knows old names, and keys that are new
        changed = set(differing([flat(load_run_config(folder.config).as_plain()), now])) - MAY_CHANGE
    kept = []
    for argument in arguments:
        key = argument.partition("=")[0].lstrip("+~").replace("/", ".")
        own = {other for other in changed if f"{other}.".startswith(f"{key}.")}
        changed -= own
        if not own and key != "stop_step":
            kept.append(argument)
    return None if changed - {"schedule.decay_steps"} else kept


def main() -> int:
    """Runs the command line; returns the exit code."""
    if sys.argv[1:2] == ["keys"]:
        return print_keys(sys.argv[2:])
    if sys.argv[1:2] in (["plan"], ["doctor"]):
        return reported(lambda: importlib.import_module(f"launch.{sys.argv[1]}.command").run(sys.argv[2:]))
    if sys.argv[1:2] and sys.argv[1] in runs.VERBS:
        return runs.main(sys.argv[1], sys.argv[2:])
    if wrong := no_verb(sys.argv[1:]):
        print(f"error: {wrong}", file=sys.stderr)
        return EXIT_USER_ERROR
    if is_sweep(sys.argv[1:]) or any(argument.startswith((DRY_RUN, WANDB_SWEEP)) for argument in sys.argv[1:]):
        return _planned()
    if PARENT in os.environ:  # a member of a sweep
        stop_with_parent()
    return hydra_app(launch, __doc__ or "")


def no_verb(arguments: Sequence[str]) -> str | None:
    """Returns what is wrong with a first argument that is meant as a verb and is none; None if nothing is."""
    word = arguments[0] if arguments else ""
    if not re.fullmatch(r"-{0,2}[A-Za-z]+", word):
        return None
    close = close_verb(word, VERBS)
    if not close and word.startswith("-"):
        return None
    if is_known(word) or word in options("experiment"):
        return None  # a key without its value, or an experiment: the config's own messages say what to type
    if close:
        return f"there is no verb {word!r}; did you mean `python -m launch {' '.join([close, *arguments[1:]])}`?"
    return f"{word!r} is no verb ({', '.join(VERBS)}), and no key=value, as in experiment=demo"


def _planned() -> int:
    """Runs a sweep, or prints what would run."""
    is_dry = DRY_RUN in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != DRY_RUN]
    if WANDB_SWEEP in {argument.partition("=")[0] for argument in sys.argv[1:]}:
        return _print_wandb_sweep()
    if is_search(sys.argv[1:]):
        return search_app(lambda search: launch_search(search, is_dry=is_dry))
    if is_sweep(sys.argv[1:]):
        return sweep_app(lambda members: launch_sweep(members, is_dry=is_dry))
    return hydra_app(print_command, __doc__ or "", had_options=is_dry)


def _print_wandb_sweep() -> int:
    given, option = [], ""
    rest = iter(sys.argv[1:])
    for argument in rest:
        name, equals, value = argument.partition("=")
        if name == WANDB_SWEEP:
            option = value if equals else next(rest, "")
        else:
            given.append(argument)
    sys.argv[1:] = given
    if not option or not is_search(given):
        print(f"error: {WANDB_SWEEP} FILE writes the search of a sweep=NAME, such as sweep=optuna", file=sys.stderr)
        return EXIT_USER_ERROR
    return search_app(lambda search: write_wandb_sweep(search, Path(option)))


def launch_search(search: Search, *, is_dry: bool) -> int:
    """Runs a search, or prints what it would run; returns the exit code. Raises TrainError if it cannot be run."""
    try:
        from launch.search.driver import run_search  # Optuna, which no other launch needs
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "optuna":
            raise
        raise TrainError(
            "a search needs Optuna, which is not installed: pip install -c constraints.txt -e '.[search]'"
        ) from None
    return run_search(search, is_dry=is_dry)


def launch_sweep(members: Sequence[Member], *, is_dry: bool) -> int:
    """Starts the members that are not finished, in the way that their configs say; returns the exit code.

    Raises TrainError, before anything starts, if one cannot be started like this.
    """
    members = with_kept_names(members)
    ways = {member.config.launch.way for member in members}
    if len(ways) > 1:
        raise TrainError("launch cannot be swept: start a sweep for each way")
    [way] = ways
    if way in (LaunchWay.local, LaunchWay.nodes):
        return run_sweep(members, is_dry=is_dry)
    waiting = [member.config for member in members if not is_finished(member.config)]
    if not waiting:
        print(f"{members[0].sweep}: {counted(len(members), 'run')}, all of them finished")
        compare_members(members)
        return EXIT_OK
    if way is LaunchWay.kubernetes:
        return print_manifest(waiting)
    sweep = members[0].sweep
    return print_submission(waiting, sweep) if is_dry else submit(waiting, sweep)


def print_command(config: RunConfig) -> int:
    """Prints what a launch would run; returns the exit code."""
    if config.launch.way is LaunchWay.slurm:
        return print_submission([config])
    if config.launch.way is LaunchWay.kubernetes:
        return print_manifest([config])
    print(shlex.join(foreground_of(config).command))
    print(f"# would write {RunFolder.of(config).launch} for it, and delete that at the end")
    return EXIT_OK


if __name__ == "__main__":
    keep_on_without_reader()
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # as it was during the imports (launch/__init__.py)
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code = main()
    except KeyboardInterrupt:
        code = EXIT_STOPPED
    ignore_stop_signals()  # what the run ended with has been said
    sys.exit(code)
