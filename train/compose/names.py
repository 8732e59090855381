"""What a person may have meant by a key that does not exist."""

import difflib

from train.compose.groups import groups
from train.compose.keys import config_keys, with_placeholder

OTHER_NAMES = {
    "learning_rate": "optimizer.lr",
    "peak_lr": "optimizer.lr",
    "wd": "optimizer.weight_decay",
    "grad_clip": "optimizer.max_grad_norm",
    "gradient_clipping": "optimizer.max_grad_norm",
    "clip_grad_norm": "optimizer.max_grad_norm",
    "warmup": "schedule.warmup_steps",
    "batch_size": "global_batch_size",
    "train_batch_size": "global_batch_size",
    "per_device_train_batch_size": "micro_batch_size",
    "seq_len": "sequence_length",
    "seq_length": "sequence_length",
    "max_seq_len": "sequence_length",
    "max_seq_length": "sequence_length",
    "context_length": "sequence_length",
    "block_size": "sequence_length",
    "steps": "max_steps",
    "num_steps": "max_steps",
    "train_steps": "max_steps",
    "total_steps": "max_steps",
    "epochs": "max_steps",
    "num_epochs": "max_steps",
    "gpus": "launch.processes",
    "num_gpus": "launch.processes",
    "n_gpus": "launch.processes",
    "nproc_per_node": "launch.processes",
    "num_processes": "launch.processes",
    "world_size": "launch.processes",
    "num_nodes": "launch.nodes",
    "nnodes": "launch.nodes",
    "output_dir": "run_root",
    "out_dir": "run_root",
    "save_dir": "run_root",
    "run_name": "name",
    "save_interval": "checkpoint.interval",
    "save_steps": "checkpoint.interval",
    "save_every": "checkpoint.interval",
    "log_interval": "logging.interval",
    "logging_steps": "logging.interval",
    "eval_interval": "evaluation.interval",
    "eval_steps": "evaluation.interval",
    "dtype": "engine.precision",
    "bf16": "engine.precision",
    "fp16": "engine.precision",
    "stage": "engine.zero_stage",
    "gradient_checkpointing": "model.activation_checkpointing",
    "pretrained": "init_from",
    "load_from": "init_from",
    "model_name_or_path": "init_from",
}
"""Names of other trainers -> ours."""

NO_KEY = {
    "resume": "the same command, run again, continues the run",
    "resume_from": "the same command, run again, continues the run",
    "resume_from_checkpoint": "the same command, run again, continues the run",
}
"""Names of other trainers for what is no key here -> what to do instead."""


def closest_keys(unknown: str, limit: int = 3) -> list[str]:
    """Returns the existing keys and groups that `unknown` may stand for, the likeliest first."""
    pattern, name = with_placeholder(unknown)
    return [key.replace("NAME", name) if name else key for key in _closest(pattern, limit)]


def _closest(unknown: str, limit: int) -> list[str]:
    keys = list(dict.fromkeys([*(row.key for row in config_keys()), *groups()]))
    group, _, last = unknown.rpartition(".")
    if same := [key for key in keys if key.endswith(f".{last}")]:
        return same[:limit]
    if group and any(key.startswith(f"{group}.") for key in keys):
        of_group = {key.rpartition(".")[2]: key for key in keys if key.rpartition(".")[0] == group}
        close = difflib.get_close_matches(last, of_group, n=limit, cutoff=0.6)
        if close or last not in OTHER_NAMES:
            return [of_group[name] for name in close]
    elif group and last in keys:
        return [last]
    if last in OTHER_NAMES:
        return [OTHER_NAMES[last]]
    whole = {name: name for name in keys} | OTHER_NAMES
    parts = {key.rpartition(".")[2]: key for key in reversed(keys)}
    for names, cutoff in ((whole, 0.7), (parts, 0.8)):
        if close := difflib.get_close_matches(unknown, names, n=limit, cutoff=cutoff):
            return list(dict.fromkeys(names[name] for name in close))
    return []


def did_you_mean(unknown: str) -> str:
    """Returns how a sentence about an unknown key ends: with the closest one, or where all are listed."""
    if unknown in NO_KEY:
        return f": {NO_KEY[unknown]}"
    close = closest_keys(unknown, limit=4)
    if close:
        last = unknown.rpartition(".")[2]
        shown = close if all(key.endswith(f".{last}") for key in close) else close[:1]
        return f"; did you mean {' or '.join(map(repr, shown))}?"
    group = unknown.rpartition(".")[0]
    of_group = f" {group}." if any(row.key.startswith(f"{group}.") for row in config_keys() if group) else ""
    return f": `python -m launch keys{of_group}` prints all that there are"
