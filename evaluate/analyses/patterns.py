"""Patterns of learned positions beside what chance gives (arXiv 2512.14391, section 5.2), and their range.

A text's positions of one head, z, are cut into chunks of 16 tokens. *Constant*: all within eps of the chunk's mean;
*Mono*: not constant, and strictly rising or strictly falling; *Hybrid*: the rest. The definitions, and those of the
other figures, are in model/position_statistics.py. The shares are taken with the paper's eps, 0.2, which measures the
scale of z as much as its shape, and with an eps of one standard deviation of the head's z over the text.

Each is set beside three controls:

    shuffled  the same tokens in a random order, read by the same model
    noise     independent normal values of the head's standard deviation
    walk      a random walk with steps of the head's standard deviation of d_t

Of a scheme with `adds_index` (residual positions), z is the deviation from the index.
"""

import functools
from typing import Any

import torch
from torch import Tensor

from evaluate.analyses.texts import TextsConfig
from evaluate.errors import EvaluateError
from evaluate.layers import read_layers
from evaluate.subject import ModelSubject
from model.position_statistics import CHUNK, CHUNK_EPS, head_values, patterns
from model.transformer import Olmo2

NUM_NULL_CHUNKS = 20_000
KEPT = ("range", "std", "step_std", "rank_correlation")
SHARES = {"constant": "constant_share", "mono": "monotone_share", "hybrid": "hybrid_share"}
Figures = dict[str, Tensor]


def check_learned(model: Olmo2, place: str) -> list[int]:
    """Returns the layers that learn positions. Raises EvaluateError if there is none."""
    layers = [layer for layer, _ in model.learned_positions()]
    if not layers:
        raise EvaluateError(f"{place}: no layer learns positions, so there are no patterns to count")
    return layers


def pattern_row(subject: ModelSubject, config: TextsConfig, length: int, index: int) -> dict[str, Any]:
    """Returns what is kept of a text: each figure by layer and head, of the text and of each control."""
    tokens = torch.tensor(config.tokens(index, length, subject))
    order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(config.seed * 1_000_003 + index))
    found = {"text": _figures(subject, tokens), "shuffled": _figures(subject, tokens[order])}
    std, step_std = found["text"]["std"], found["text"]["step_std"]
    found |= {"noise": null_shares("noise", std, std), "walk": null_shares("walk", step_std, std)}
    return {
        "tokens": len(tokens),
        **{
            kind: {name: [[float(f"{x:.6g}") for x in heads] for heads in lh.tolist()] for name, lh in figures.items()}
            for kind, figures in found.items()
        },
    }


def position_figures(z_th: Tensor, radians_f: Tensor) -> Figures:
    """Returns the figures of one layer's positions [T, H], each [H]."""
    z_1ht = z_th.double().T[None].contiguous()
    lengths = torch.tensor([float(len(z_th))], dtype=torch.float64)
    values = head_values(z_1ht, lengths, radians_f)
    relative = patterns(z_1ht, lengths, values["std"])
    shares = {name: values[own] for name, own in SHARES.items()}
    shares |= {f"{name}_relative": relative[own] for name, own in SHARES.items()}
    return {name: value[0] for name, value in (shares | {name: values[name] for name in KEPT}).items()}


def null_shares(kind: str, scale: Tensor, std: Tensor) -> Figures:
    """Returns the shares of chunks of `kind` (noise or walk) of this scale, with both eps: the paper's, and `std`."""
    found: Figures = {}
    for suffix, eps in (("", torch.full_like(scale, CHUNK_EPS)), ("_relative", std)):
        ratio = torch.where(scale > 0, eps / scale, torch.inf)
        constant, mono = (_share_within(deviations, ratio) for deviations in _null_deviations(kind))
        all_mono = len(_null_deviations(kind)[1]) / NUM_NULL_CHUNKS
        mono = all_mono - mono * all_mono if all_mono else torch.zeros_like(ratio)
        found |= {f"constant{suffix}": constant, f"mono{suffix}": mono, f"hybrid{suffix}": 1 - constant - mono}
    return found


@functools.cache
def _null_deviations(kind: str) -> tuple[Tensor, Tensor]:
    """Returns max |z - mean| of chunks of scale 1, sorted: of all chunks, and of those that only rise or only fall."""
    drawn = torch.randn(NUM_NULL_CHUNKS, CHUNK, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    chunks = {"noise": drawn, "walk": drawn.cumsum(-1)}[kind]
    deviations = (chunks - chunks.mean(-1, keepdim=True)).abs().amax(-1)
    steps = chunks.diff(dim=-1)
    is_mono = (steps > 0).all(-1) | (steps < 0).all(-1)
    return deviations.sort().values, deviations[is_mono].sort().values


def _share_within(sorted_values: Tensor, limits: Tensor) -> Tensor:
    if not len(sorted_values):
        return torch.zeros_like(limits)
    return torch.searchsorted(sorted_values, limits.contiguous(), right=True).double() / len(sorted_values)


def _figures(subject: ModelSubject, tokens_t: Tensor) -> Figures:
    """Returns the figures of a text, [L, H] each, of the layers that learn positions."""
    radians = subject.model.frequencies.turns(torch.device("cpu")) * 2 * torch.pi
    per_layer = [
        position_figures(read.positions[0].cpu(), radians)
        for read in read_layers(subject.model, tokens_t.to(subject.device))
        if read.block.positions.scheme.is_learned and read.positions is not None
    ]
    return {name: torch.stack([figures[name] for figures in per_layer]) for name in per_layer[0]}
