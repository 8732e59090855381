"""Every mistake at the keyboard is one line that says what to type, and exit code 2, before any process starts."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launch.__main__ import main
from train.errors import EXIT_USER_ERROR

DEMO = "experiment=demo"
FIXED = ("optimizer.lr=1e-3", "optimizer.repo_lr_multiplier=1", "optimizer.repo_warmup_steps=0")  # of sweep=optuna
SAMPLE = "data.root=SAMPLE"  # the fixture's folder


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        # Keys, groups, types and ranges.
        ([DEMO, "optimizer.lrr=1"], "there is no config key 'optimizer.lrr'; did you mean 'optimizer.lr'?"),
        ([DEMO, "+optimizer.lrr=1"], "there is no config key 'optimizer.lrr'; did you mean 'optimizer.lr'?"),
        ([DEMO, "optimiser.lr=1"], "there is no config key 'optimiser'; did you mean 'optimizer'?"),
        ([DEMO, "run.name=pit"], "there is no config key 'run.name'; did you mean 'name'?"),
        ([DEMO, "modle=tiny"], "there is no config key 'modle'; did you mean 'model'?"),
        ([DEMO, "xyzzy=1"], "there is no config key 'xyzzy': `python -m launch keys` prints all that there are"),
        ([DEMO, "lr=1"], "there is no config key 'lr'; did you mean 'optimizer.lr'?"),
        ([DEMO, "learning_rate=1"], "there is no config key 'learning_rate'; did you mean 'optimizer.lr'?"),
        ([DEMO, "num_gpus=8"], "there is no config key 'num_gpus'; did you mean 'launch.processes'?"),
        ([DEMO, "batch_size=8"], "there is no config key 'batch_size'; did you mean 'global_batch_size'?"),
        ([DEMO, "resume=true"], "there is no config key 'resume': the same command, run again, continues the run"),
        ([DEMO, "optimizer.name=x"], "there is no config key 'optimizer.name': `python -m launch keys optimizer.`"),
        ([DEMO, "gc_interval=1"], "there is no config key 'gc_interval'; did you mean 'logging.gc_interval'?"),
        ([DEMO, "data.sources.web.weigt=1"], "there is no config key 'data.sources.web.weigt'; did you mean "),
        ([DEMO, "data.sources.web=a/*.zst"], "a/*.zst is given where keys belong: data.sources.NAME.files, data"),
        ([DEMO, "optimizer.lr=fast"], "optimizer.lr takes a number, and 'fast' is none"),
        ([DEMO, "max_steps=1.5"], "max_steps takes a whole number, and '1.5' is none"),
        ([DEMO, "wandb=off"], "there is no wandb=off: set wandb.mode=offline, online or disabled"),
        ([DEMO, "wandb=false"], "there is no wandb=false: set wandb.mode=offline, online or disabled"),
        ([DEMO, "engine.precision=fp31"], "engine.precision: Invalid value 'fp31', expected one of [auto, bf16, fp32]"),
        ([DEMO, "model=tinny"], "there is no model=tinny; choose one of olmo2-1b, olmo2-7b, small, tiny"),
        ([DEMO, "optimizer=adam"], "there is no optimizer=adam; choose one of published"),
        ([DEMO, "optimizer.betas=0.9"], "optimizer.betas takes a list, as in 'optimizer.betas=[...]'"),
        ([DEMO, "hydra/launcher=joblib"], "there is no hydra/launcher=joblib here: "),
        ([DEMO, "positions/yarn=default"], "positions/yarn is not among the groups of this run: add it with a plus, "),
        ([DEMO, "~optimizer.lr"], "optimizer.lr cannot be deleted: set it to another value"),
        ([DEMO, "max_steps"], "'max_steps' is not of the form key=value"),
        (["demo"], "'demo' is not of the form key=value; did you mean experiment=demo?"),
        ([DEMO, "data.eos_token=<eos>"], "the value in 'data.eos_token=<eos>' has characters that need quotes: "),
        ([DEMO, "seed=1,2"], "seed=1,2 gives several values: add -m to run each, or write 'seed=[1,2]' for a list"),
        ([DEMO, "-max_steps=5"], "there is no option -max_steps; keys are set without a dash, as in max_steps=5"),
        ([DEMO, "--max_steps=5"], "there is no option --max_steps; keys are set without a dash, as in max_steps=5"),
        ([DEMO, "--cfg"], "option --cfg needs one of job, hydra, all, as in --cfg job"),
        ([DEMO, "--cfg", "job", "-m"], "--cfg prints one config: leave out -m, and give each key one value"),
        (["experiment="], "experiment is not given; choose one of demo, demo-backbone, "),
        (["experiment=dmeo"], "there is no experiment=dmeo; choose one of demo, demo-backbone, "),
        (["name=x"], "experiment is not given; choose one of demo, demo-backbone, "),
        ([DEMO, "engine.zero_stage=4"], "engine.zero_stage=4 does not exist: choose 0, 1, 2 or 3"),
        ([DEMO, "optimizer.betas=[0.9]"], "optimizer.betas=[0.9] must be two numbers in [0, 1)"),
        ([DEMO, "optimizer.lr=nan"], "optimizer.lr=nan is out of range: it must be a number of at least 0"),
        ([DEMO, "logging.interval=3"], "position_watch.interval=10 must be a multiple of logging.interval=3"),
        ([DEMO, "schedule.warmup_steps=999"], "schedule.decay_steps="),
        ([DEMO, "model.hidden_size=130"], "model.num_heads is 4, which does not cut model.hidden_size 130"),
        ([DEMO, "positions.start_layer=6"], "positions.start_layer is 6 and model.num_layers is 6; choose 0 to 5"),
        ([DEMO, "data.root=''"], "data.root is not set"),
        # Verbs, options and what stands in the wrong place.
        (["statsu"], "there is no verb 'statsu'; did you mean `python -m launch status`?"),
        (["--status"], "there is no verb '--status'; did you mean `python -m launch status`?"),
        (["run", DEMO], "'run' is no verb (keys, plan, doctor, status, compare, stop), and no key=value, as in exper"),
        (["--dryrun", DEMO], "there is no option --dryrun; did you mean --dry-run?"),
        ([DEMO, "--dry_run"], "there is no option --dry_run; did you mean --dry-run?"),
        (["--dry-run", "demo"], "'demo' is not of the form key=value; did you mean experiment=demo?"),
        (["keys", "xyzzy"], "no key matches 'xyzzy': `python -m launch keys` prints all that there are"),
        (["keys", "a", "b"], "one pattern at a time: python -m launch keys PATTERN"),
        (["--dry-run"], "experiment is not given; choose one of demo, demo-backbone, "),
        ([DEMO, "--dry-run=1"], "option --dry-run takes no value"),
        ([DEMO, "--nproc_per_node=8"], "there is no option --nproc_per_node; set the key launch.processes=VALUE"),
        ([DEMO, "--output-dir", "x"], "there is no option --output-dir; set the key run_root=VALUE"),
        ([DEMO, "--resume"], "there is no option --resume: the same command, run again, continues the run"),
        ([DEMO, "--config-dir"], "option --config-dir needs a folder of config files, as in --config-dir mine"),
        # What is left out, or too much.
        ([DEMO, "max_steps="], "max_steps takes a whole number, and '' is none"),
        ([DEMO, "=5"], "'=5' is not of the form key=value"),
        ([DEMO, "optimizer.lr", "=", "1e-3"], "'optimizer.lr' is not of the form key=value: write optimizer.lr=VALUE"),
        ([DEMO, "optimizer.lr =1e-3"], "'optimizer.lr =1e-3' has a space before '=': write optimizer.lr=1e-3"),
        ([DEMO, "optimizer.lr:1e-3"], "'optimizer.lr:1e-3' is not of the form key=value: write optimizer.lr=1e-3"),
        ([DEMO, "experiment=repo-1b-50b"], f"{DEMO} and experiment=repo-1b-50b: a run has one experiment, leave one "),
        ([DEMO, "+optimizer=published"], "optimizer has an option already: write optimizer=... without a plus"),
        # Values.
        ([DEMO, "max_steps=-5"], "max_steps=-5 is out of range: it must be a number of at least 1"),
        ([DEMO, "max_steps=1e3"], "max_steps takes a whole number, and '1000.0' is none: write max_steps=1000"),
        ([DEMO, "max_steps=1,000"], "max_steps=1,000 has commas in a number: write max_steps=1000"),
        ([DEMO, "model.activation_checkpointing=yess"], "model.activation_checkpointing takes true or false, and 'yes"),
        ([DEMO, "optimizer.betas=[0.9"], "the value in 'optimizer.betas=[0.9' cannot be read: check its brackets and"),
        ([DEMO, 'data.eos_token="<eos>'], "the value in 'data.eos_token=\"<eos>' cannot be read: check its brackets"),
        ([DEMO, "\u201cname=x\u201d"], "'\u201cname=x\u201d' has dashes or quotes of a text editor: type them again"),
        (
            [DEMO, "\u2013dry-run"],
            "'\u2013dry-run' has dashes or quotes of a text editor: type them again, as in --dry",
        ),
        ([DEMO, "name=a b"], "name='a b' cannot name a folder: use letters, digits, '.', '+', '-' and '_'"),
        ([DEMO, "run_root=~/runs"], "the shell does not replace ~ behind an '=': write run_root=$HOME/runs"),
        ([DEMO, 'run_root="~/runs"'], "run_root=~/runs begins with ~, which only a shell replaces: write it out"),
        ([DEMO, "optimizer.lr=0,001"], "optimizer.lr=0,001 has commas in a number: write optimizer.lr=0.001"),
        ([DEMO, "name=a\nb"], "'name=a\\nb' has a line break: write it in one line"),
        (
            ["-m", DEMO, "seed=[1,2]"],
            "seed takes a whole number, and '[1, 2]' is none: for a run of each, write -m seed=1,2",
        ),
        # Machine and batch.
        ([DEMO, "launch.processes=3", "--dry-run"], "launch.processes=3, but 2 GPUs are visible: use launch.proces"),
        ([DEMO, "launch.processes=0"], "launch.processes=0 is out of range: it must be a number of at least 1"),
        ([DEMO, "global_batch_size=7", "--dry-run"], "global_batch_size=7 cannot be split over 2 ranks: use launch."),
        ([DEMO, "micro_batch_size=5", "--dry-run"], "micro_batch_size=5 does not divide a rank's 12 rows"),
        ([DEMO, "launch.rendezvous=node0:29400"], "launch.rendezvous is for several machines without a scheduler: add"),
        ([DEMO, "launch.hostfile=hosts"], "launch.hostfile is for several machines without a scheduler: add launch="),
        (
            [DEMO, "launch=nodes", "launch.nodes=2", "launch.rendezvous=a:99999"],
            "launch.rendezvous=a:99999 has no port",
        ),
        ([DEMO, "run_root="], "run_root is empty: name the folder of runs, or leave it out for runs"),
        (
            [DEMO, "launch=nodes", "launch.hostfile=/absent", "--dry-run"],
            "launch.hostfile=/absent cannot be read: No suc",
        ),
        ([DEMO, "launch.nodes=2"], "launch.nodes=2 is for several machines: add launch=nodes, slurm or kubernetes"),
        (
            [DEMO, "launch=slurm", "launch.slurm.time=1h"],
            "launch.slurm.time=1h is no time: write HH:MM:SS or D-HH:MM:SS",
        ),
        (
            [DEMO, "launch=slurm", "launch.parallel=2"],
            "launch.parallel=2 is for launch=local: use launch.slurm.array_l",
        ),
        ([DEMO, "launch=kubernetes"], "launch=kubernetes needs launch.kubernetes.image"),
        # Data and weights that are not there.
        ([DEMO, "data.root=/absent"], "data.root: there is no folder /absent; "),
        (["-m", DEMO, "data.root=/absent", "seed=1,2"], "data.root: there is no folder /absent; "),
        ([DEMO, "data.root=/absent", "launch=slurm", "launch.processes=1"], "data.root: there is no folder /absent; "),
        ([DEMO, "init_from=README.md", "data.root=http://127.0.0.1:9"], "init_from=README.md is no folder: give a Hug"),
        ([DEMO, "init_from=runs/absent", "data.root=http://127.0.0.1:9"], "init_from=runs/absent is absent: train th"),
        (
            ["experiment=demo-backbone", SAMPLE, "run_root=/proc/runs"],
            "cannot write in /proc/runs/demo-backbone (No such file or directory): set run_root to another folder\n",
        ),
        (
            ["experiment=demo-backbone", SAMPLE, "run_root=README.md"],
            "cannot write in README.md/demo-backbone (Not a directory): a part of this path is a file; set run_root to",
        ),
        # Sweeps.
        (["sweep=nope", DEMO], "there is no sweep=nope; choose one of optuna, paper, repo-lr, schemes, start-layers"),
        (["sweep=", DEMO], "there is no sweep=; choose one of optuna, paper, repo-lr, schemes, start-layers"),
        (["sweep=schemes"], "experiment is not given; choose one of demo, demo-backbone, "),
        (["-m", "seed=1,2"], "experiment is not given; choose one of demo, demo-backbone, "),
        (["-m", DEMO, "seed=1,"], "the value in 'seed=1,' has a comma too much: write seed=A,B"),
        (["-m", DEMO, "seed=chioce(1,2)"], "there is no function 'chioce' for values: list them, as in seed=A,B, or"),
        (["-m", DEMO, "optimizer.lr=interval(1,2)"], "optimizer.lr=interval(1,2) has no end of values: list them"),
        (["-m", DEMO, "seed=1,x"], "seed takes a whole number, and 'x' is none (in the member seed=x)"),
        (["-m", DEMO, "seed=1,1"], "two members of this sweep would be called demo-seed_1: give each value once"),
        (["sweep=schemes", DEMO, "positions=repo"], "positions: one value is given by hand, and sweep=schemes varies "),
        (["sweep=paper", DEMO, "positions=repo", "seed=7"], "positions and seed: one value is given by hand, an"),
        (
            ["-m", DEMO, "launch.parallel=1,2"],
            "launch.parallel=1,2: launch keys say how runs are started, and cannot b",
        ),
        (["-m", DEMO, "launch=local,slurm"], "launch=local,slurm: launch keys say how runs are started, and cannot be"),
        (
            ["sweep=optuna", DEMO, "launch.search.storage=mysql://db/x"],
            "launch.search.storage=mysql://db/x is no file: ",
        ),
        (["sweep=optuna", DEMO, "launch.search.storage=sqlite:///"], "launch.search.storage=sqlite:/// is no file: gi"),
        (
            ["sweep=optuna", DEMO, *FIXED],
            "every key of the space has one value by hand (in sweep=optuna): leave out opt",
        ),
        (["sweep=optuna", "sweep=schemes", DEMO], "a search is a sweep of its own: give sweep=optuna alone"),
        (
            ["sweep=optuna", DEMO, "launch=slurm"],
            "a search waits for its runs, which launch=slurm cannot: use launch=lo",
        ),
        (
            ["sweep=mine.yaml", DEMO],
            "there is no sweep=mine.yaml; choose one of optuna, paper, repo-lr, schemes, start",
        ),
        # Runs.
        (["status", "/absent"], "there is no run in /absent: name the folder of runs, such as runs"),
        (["status", "--wach"], "unrecognized arguments: --wach; `python -m launch status --help` shows examples"),
        (["status", "--seconds", "x"], "argument --seconds: invalid float value: 'x'; `python -m launch status --h"),
        (["stop"], "the following arguments are required: RUN; `python -m launch stop --help` shows examples"),
        (["stop", "/absent"], "there is no run folder /absent: `python -m launch status` lists those in runs"),
        (["compare", "/absent"], "a comparison needs two runs or more: name their folders, such as runs/a runs/b"),
        # Plans and checks.
        (["plan", "configs"], "'configs' is not of the form key=value: this is a folder; a run is described by its"),
        (["plan", "demo"], "'demo' is not of the form key=value; did you mean experiment=demo?"),
        (["plan", "--gpus", "8"], "experiment is not given; choose one of demo, demo-backbone, "),
        (["plan", DEMO, "--gpus"], "argument --gpus: expected one argument; `python -m launch plan --help` shows"),
        (["plan", DEMO, "--gpus", "x"], "argument --gpus: invalid int value: 'x'; `python -m launch plan --help` sho"),
        (["plan", DEMO, "--gpus", "-1"], "--gpus -1 has to be above 0"),
        (["plan", DEMO, "--gpsu", "8"], "there is no option --gpsu; did you mean --gpu?"),
        (["plan", DEMO, "--gpu", "tpu"], "--gpu tpu is not known; choose one of H200, H100"),
        (["plan", DEMO, "engine.zero_stage=0"], "engine.zero_stage=0 does not work with bf16: use engine.zero_stage=1"),
        (["plan", DEMO, "--mfu", "45"], "--mfu 45 is a share of the peak: give 0.45 for 45 %"),
        (["plan", DEMO, "-m", "seed=1,2"], "a plan is of one run: leave out -m and sweep=, and give each key one val"),
        (["doctor", "--json"], "experiment is not given; choose one of demo, demo-backbone, "),
        (["doctor", DEMO, "--all-node"], "there is no option --all-node; did you mean --all-nodes?"),
        (["doctor", DEMO, "--seconds", "0"], "--seconds 0 has to be above 0"),
        (["doctor", DEMO, "sweep=schemes"], "the doctor examines one run: leave out -m and sweep=, and give each key"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str],
    line: str,
    sample: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*command: Any, **options: Any) -> None:
        raise OSError(f"a process was started: {command}")

    monkeypatch.chdir(tmp_path)  # the checkout may hold a demo that is finished
    (tmp_path / "README.md").touch()
    (tmp_path / "configs").mkdir()
    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")  # what a machine with two GPUs would have
    monkeypatch.setattr(sys, "argv", ["launch", *(argument.replace("SAMPLE", str(sample)) for argument in arguments)])
    try:
        code = main()
    except SystemExit as stopped:  # argparse
        code = int(stopped.code or 0)
    output = capsys.readouterr()
    assert output.err.startswith(f"error: {line}")
    assert code == EXIT_USER_ERROR and output.err.count("\n") == 1 and output.out == ""
