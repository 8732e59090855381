"""How much the tokens of an answer attend to the needle, to the question and to the rest (arXiv 2512.14391, table 4).

The prompt of a needle task and its right answer are read in one pass, so all models read the same text. Every token
belongs to one part:

    first   token 0: models without a token that begins texts put much attention there, whatever it is
    needle  tokens of the right values within the context
    query   tokens of the question after the context, and of the beginning of the answer
    rest    the other tokens of the prompt
    own     tokens of the answer

The mass of a part is the attention on its tokens, a mean over the answer's tokens as queries; the masses sum to 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from enum import Enum

import torch
from torch import Tensor

from evaluate.config import ProbeConfig, SampleConfig
from evaluate.errors import EvaluateError
from evaluate.haystack import open_haystack
from evaluate.layers import MAX_SCORES, read_layers, rows_of_attention
from evaluate.samples import Fitted, Samples
from evaluate.subject import ModelSubject
from evaluate.tasks import build_tasks
from evaluate.tasks.needles import NEEDLE, TEMPLATE, forms
from model.transformer import Olmo2
from report.evaluation.attention import PARTS

FIRST, NEEDLE_PART, QUERY, REST, OWN = range(len(PARTS))
DEFAULT_TASKS = ("niah_single_1", "niah_multikey_1", "niah_multivalue", "niah_multiquery")
QUESTION = f"\n{TEMPLATE.partition('{context}')[2].split()[0]} "  # what begins the question, after the context


class Queries(Enum):
    """Which tokens' attention is read."""

    answer = "answer"
    predicting = "predicting"


@dataclass
class AttentionConfig(SampleConfig):
    """Samples of needle tasks, by keys of probes with their meaning, and whose attention is read."""

    task: list[str] = field(default_factory=list)
    """Needle tasks; none stands for those of the paper's table 1 that fit the length."""
    num_samples: int = 100
    """Samples of each task at each length."""
    queries: Queries = Queries.answer
    """answer: the answer's tokens, as in the paper; predicting: the tokens that predict them, each one earlier."""

    def probes(self) -> ProbeConfig:
        """Returns the probes of the same samples. Raises EvaluateError for a value out of range."""
        config = ProbeConfig(**{each.name: getattr(self, each.name) for each in fields(SampleConfig)})
        config.validate()
        known = forms(config)
        if other := [name for name in self.task if name not in known]:
            raise EvaluateError(f"task={other[0]} is no needle task: choose from {', '.join(known)}")
        return config


def settings_of(config: AttentionConfig) -> dict[str, object]:
    """Returns what the rows depend on, the model left out. Raises EvaluateError and OSError."""
    return {
        **{key: value for key, value in vars(config).items() if key not in ("task", "length", "num_samples")},
        "queries": config.queries.value,
        "haystack": open_haystack(config.haystack).digest,
        "yarn": {str(length): factor for length, factor in config.yarn.items()},  # as JSON has it
    }


def planned(config: AttentionConfig, subject: ModelSubject, lengths: Sequence[int]) -> dict[tuple[str, int], Samples]:
    """Returns the samples of each task and length. Raises EvaluateError where none fits, or a named one does not."""
    probes, found, why = config.probes(), dict[tuple[str, int], Samples](), ""
    tasks = build_tasks(probes)
    for name in config.task or DEFAULT_TASKS:
        for length in lengths:
            samples = Samples(name, tasks[name], length, probes, subject.encode)
            try:
                samples.check()
            except EvaluateError as error:
                if config.task:
                    raise
                why = str(error)
            else:
                found[name, length] = samples
    if not found:
        raise EvaluateError(f"no task fits: {why}")
    return found


def parts_of(subject: ModelSubject, fitted: Fitted) -> Tensor:
    """Returns the part of each token of the prompt and its answer, int64 [T], numbered as in `PARTS`."""
    prompt = fitted.sample.prompt
    before, _, after = NEEDLE.rpartition("{value}")
    colon = before.rpartition("}")[2]
    spans = []
    for value in fitted.sample.gold:
        start = prompt.index(f"{colon}{value}{after}") + len(colon)
        spans.append((start, start + len(value), NEEDLE_PART))
    spans.append((prompt.rindex(QUESTION) + 1, len(prompt), QUERY))
    parts = torch.full((len(fitted.prompt) + len(fitted.answer),), REST)
    offsets = subject.tokenizer.encode(prompt, add_special_tokens=False).offsets
    for token, (start, end) in enumerate(offsets):
        for low, high, part in spans:
            if start < high and end > low:
                parts[token] = part
    parts[0] = FIRST
    parts[len(fitted.prompt) :] = OWN
    return parts


@torch.no_grad()
def masses(
    model: Olmo2, tokens_t: Tensor, parts_t: Tensor, first: int, last: int, max_scores: int = MAX_SCORES
) -> Tensor:
    """Returns the attention on each part, [L, H, parts] float64: a mean over the queries from `first` up to `last`."""
    share_tp = torch.nn.functional.one_hot(parts_t, len(PARTS)).float()
    found = []
    for read in read_layers(model, tokens_t):
        sums = sum((rows @ share_tp).double().sum(dim=1) for rows in rows_of_attention(read, first, last, max_scores))
        assert isinstance(sums, Tensor)
        found.append(sums.cpu() / (last - first))
    return torch.stack(found)


def attention_row(subject: ModelSubject, fitted: Fitted, queries: Queries) -> dict[str, object]:
    """Returns what is kept of a sample: tokens and mass of each part, the latter by layer and head."""
    parts_t = parts_of(subject, fitted)
    tokens = torch.tensor(fitted.prompt + fitted.answer)
    last = len(tokens) - (queries is Queries.predicting)
    device = subject.device
    found = masses(subject.model, tokens.to(device), parts_t.to(device), last - len(fitted.answer), last)
    counts = torch.bincount(parts_t, minlength=len(PARTS)).tolist()
    return {
        "tokens": len(tokens),
        "counts": dict(zip(PARTS, counts, strict=True)),
        "mass": {
            name: [[float(f"{value:.6g}") for value in heads] for heads in found[..., part].tolist()]
            for part, name in enumerate(PARTS)
        },
    }
