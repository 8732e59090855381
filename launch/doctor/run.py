"""Checks of the run: its folder, data, weights and W&B."""

import netrc
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import requests

from common.words import counted
from data.config import DataKind
from data.fetch.remote import is_remote
from data.fetch.roots import locate_tokenizer, open_root
from data.stream import build_stream
from data.text.backend import training_files
from data.tokenizer import DocumentEncoder
from launch.doctor.check import Result, Subject, failed, passed, problem_and_remedy, skipped, warned
from report.overview import overview
from train.callbacks.config import WandbMode
from train.compose.app import save_run_config
from train.run_folder import RunFolder

WANDB_HOST = "https://api.wandb.ai"
WEB_SECONDS = 10.0


def check_run_folder(subject: Subject) -> Result:
    """Says what a launch would do: begin, continue, or nothing."""
    folder = RunFolder.of(subject.config)
    if not folder.path.exists():
        return passed(f"{folder.path} is new")
    seen = overview(folder)
    if seen.is_alive and seen.place:
        return failed(f"{folder.path} is trained by {seen.place}", "wait for it, stop it, or set another name=")
    if seen.step >= subject.config.max_steps:
        fix = "raise max_steps to train longer, or set another name="
        return warned(f"{folder.path} has done {seen.step} of {counted(subject.config.max_steps, 'step')}", fix)
    newest = folder.newest_checkpoint()
    return passed(f"{folder.path} " + ("begins" if newest is None else f"continues from step {newest}"))


def check_tokenizer(subject: Subject) -> Result:
    """Loads the tokenizer and compares its ids with the model's."""
    data, model = subject.config.data, subject.config.model
    if data.tokenizer is None:
        return skipped("none: token files with data.eos_token_id")
    encoder = DocumentEncoder(locate_tokenizer(data.tokenizer, open_root(data.root, data.cache_dir)), data.eos_token)
    found = f"{data.tokenizer}: ids up to {encoder.max_token_id}, documents end with {encoder.eos_token_id}"
    if encoder.max_token_id >= model.vocab_size:
        return failed(f"{found}, but model.vocab_size={model.vocab_size}", "set the one that belongs to the other")
    if encoder.eos_token_id != model.eos_token_id:
        return failed(f"{found}, but model.eos_token_id={model.eos_token_id}", "set the one that belongs to the other")
    return passed(found)


def check_first_row(subject: Subject) -> Result:
    """Reads the first row; of text on a server only the list of files, since a row needs whole files."""
    config = subject.config
    if is_remote(config.data.root):
        root = open_root(config.data.root, config.data.cache_dir)
        if config.data.kind is DataKind.text:
            files = [file for listed in training_files(config.data, root).values() for file in listed]
            size = sum(file.num_bytes for file in files) / 1e9
            return passed(f"{counted(len(files), 'file')}, {size:,.1f} GB at {root.address}")
    stream = build_stream(
        config.data,
        sequence_length=config.sequence_length,
        global_batch_size=config.global_batch_size,
        world_size=config.data.num_streams if config.data.kind is DataKind.text else config.global_batch_size,
    )
    try:
        row = stream.next_batch().tokens[0]
    finally:
        stream.close()
    if (largest := int(row.max())) >= config.model.vocab_size:
        fix = "the data was made with another tokenizer: set model.vocab_size or data"
        return failed(f"token {largest} in the first row, but model.vocab_size={config.model.vocab_size}", fix)
    return passed(f"{len(row):,} tokens from {config.data.root}, of {counted(len(stream.source_names), 'source')}")


def check_weights(subject: Subject) -> Result:
    """Compares every name and shape of `init_from` with the model, in a process of its own, which imports torch."""
    config = subject.config
    if RunFolder.of(config).newest_checkpoint() is not None:
        return passed("the run's own checkpoint")
    if config.init_from is None:
        return passed("random: init_from is null")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        save_run_config(config, path)
        command = [sys.executable, "-m", "launch.doctor.worker", "weights", str(path)]
        try:
            ended = subprocess.run(command, capture_output=True, text=True, timeout=subject.seconds)
        except subprocess.TimeoutExpired:
            return failed(
                f"reading {config.init_from} takes more than {subject.seconds:.0f} s", "a faster disk, or --seconds"
            )
    if ended.returncode:
        last = (ended.stderr.strip().splitlines() or ["no message"])[-1].removeprefix("error: ")
        found, fix = problem_and_remedy(last)
        return failed(f"init_from: {found}", f"{fix}; model and positions have to be those of the weights")
    return passed(ended.stdout.strip())


def check_flash_attention(subject: Subject) -> Result:
    """Imports the functions that are called, where they are chosen, in the ranks' process."""
    if subject.config.model.attention.value != "flash_attn":
        return skipped(f"model.attention={subject.config.model.attention.value} does not use it")
    command = [sys.executable, "-m", "launch.doctor.worker", "flash-attention"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=subject.seconds)
    if ended.returncode:
        reason = (ended.stderr.strip().splitlines() or ["no message"])[-1]
        return failed(
            f"it cannot be imported: {reason}", "`pip install --no-build-isolation flash-attn`, or model.attention=auto"
        )
    return passed(ended.stdout.strip())


def check_wandb(subject: Subject) -> Result:
    """Looks for a key of the server, and whether it answers."""
    mode = subject.config.wandb.mode
    if mode is not WandbMode.online:
        return skipped(f"wandb.mode={mode.value} needs no login")
    address = os.environ.get("WANDB_BASE_URL", WANDB_HOST)
    host = urlsplit(address).hostname or address
    if not os.environ.get("WANDB_API_KEY") and not _has_key(host):
        return failed(f"no key for {host}", "`wandb login`, or set WANDB_API_KEY; or wandb.mode=offline")
    try:
        requests.get(f"{address.rstrip('/')}/healthz", timeout=WEB_SECONDS)
    except requests.RequestException as error:
        fix = "open the network, or wandb.mode=offline and `wandb sync` later"
        return warned(f"a key for {host}, which does not answer ({type(error).__name__})", fix)
    return passed(f"a key for {host}, which answers")


def _has_key(host: str) -> bool:
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return netrc.netrc(str(path)).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
