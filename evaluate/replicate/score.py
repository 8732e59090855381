"""What a trained run answers: each task at each length, in batches, with the right answer as the text so far.

Of each sample: the share of the answer's tokens that the model would have chosen (*accuracy*), whether that is all of
them (*exact*: generating the most likely tokens gives the right answer then, and only then), and the negative
log-likelihood per token (*nll*).
"""

import hashlib
import json
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from common.files import write_text_whole
from evaluate.replicate.config import ReplicateConfig
from evaluate.replicate.corpus import ANSWER_ID, probe_config
from evaluate.samples import Fitted, Samples
from evaluate.subject import encode
from evaluate.tasks import build_tasks
from model.config import YarnConfig
from model.huggingface.reading import read_configs
from model.transformer import Olmo2
from model.weights import checked_weights, initialise, open_hf

Scores = dict[str, dict[str, list[float]]]
"""TASK-LENGTH -> accuracy, exact, nll -> a value for each sample."""


def cell_name(task: str, length: int) -> str:
    """Returns the name of a task at a length."""
    return f"{task}-{length}"


def score_run(folder: Path, config: ReplicateConfig, tokenizer_path: Path, path: Path) -> None:
    """Writes the scores of an exported run to `path`; one that has them, of the same probes, is kept."""
    digest = probes_digest(config)
    if path.is_file() and json.loads(path.read_text())["probes"] == digest:
        return
    tokenizer = Tokenizer.from_file(str(tokenizer_path))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)  # runs are scored side by side
    scores: Scores = {}
    for length in config.probes.lengths:
        model = _model(folder, config, length, device)
        for name, samples in probe_samples(config, tokenizer, length).items():
            scores[cell_name(name, length)] = score(model, samples, config.probes.batch_tokens, device)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_whole(path, json.dumps({"probes": digest, "scores": scores}), durable=False)


def read_scores(path: Path) -> Scores:
    """Returns what `score_run` wrote."""
    scores: Scores = json.loads(path.read_text())["scores"]
    return scores


def probes_digest(config: ReplicateConfig) -> str:
    """Returns what tells the probes of one config from those of another."""
    said = json.dumps([asdict(config.probes), asdict(config.corpus)], sort_keys=True, default=str)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


@torch.no_grad()
def score(model: Olmo2, samples: list[Fitted], batch_tokens: int, device: torch.device) -> dict[str, list[float]]:
    """Returns the three figures of each sample."""
    longest = max(len(each.prompt) + len(each.answer) for each in samples)
    size = max(1, batch_tokens // longest)
    found: dict[str, list[float]] = {"accuracy": [], "exact": [], "nll": []}
    for first in range(0, len(samples), size):
        batch = samples[first : first + size]
        tokens_bt = torch.zeros(len(batch), longest, dtype=torch.int64)
        is_answer_bt = torch.zeros(len(batch), longest, dtype=torch.bool)
        for row, each in enumerate(batch):
            end = len(each.prompt) + len(each.answer)
            tokens_bt[row, :end] = torch.tensor(each.prompt + each.answer)
            is_answer_bt[row, len(each.prompt) : end] = True
        tokens_bt, is_answer_bt = tokens_bt.to(device), is_answer_bt.to(device)[:, 1:]
        logits: Tensor = model(tokens_bt[:, :-1]).float()
        labels = tokens_bt[:, 1:]
        right = ((logits.argmax(-1) == labels) & is_answer_bt).sum(1)
        nll = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        count = is_answer_bt.sum(1)
        found["accuracy"] += (right / count).tolist()
        found["exact"] += (right == count).float().tolist()
        found["nll"] += ((nll * is_answer_bt).sum(1) / count).tolist()
    return found


def probe_samples(config: ReplicateConfig, tokenizer: Tokenizer, length: int) -> dict[str, list[Fitted]]:
    """Returns the samples of each task at a length, the same for every model."""
    probes = probe_config(config.corpus, config.probes.seed)

    found = {}
    for name, task in build_tasks(probes).items():
        samples = Samples(name, task, length - 1, probes, partial(encode, tokenizer))
        fitted = [samples[index] for index in range(config.probes.num_samples)]
        found[name] = [replace(each, prompt=[*each.prompt, ANSWER_ID]) for each in fitted]
    return found


def _model(folder: Path, config: ReplicateConfig, length: int, device: torch.device) -> Olmo2:
    """Returns the model of an export, with YaRN where the config has it for this length."""
    source = open_hf(folder)
    sizes, positions = read_configs(source)
    weights = checked_weights(source, sizes, positions, seed=0)
    if factor := config.probes.yarn.get(length):
        yarn = YarnConfig(factor=factor, original_max_position=config.corpus.row_length)
        positions = replace(positions, yarn=yarn)
    with torch.device("meta"):
        model = Olmo2(sizes, positions)
    initialise(model, weights, device)
    return model.to(torch.bfloat16 if device.type == "cuda" else torch.float32).eval()
