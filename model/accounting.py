"""How big a model is and what a token of training costs, in closed form and without torch.

Only matrix products are counted, two FLOPs per multiply-add, twice as many backward as forward; recomputation is not.
Attention has two conventions. `causal=False` counts the whole T x T square, as most published MFU figures do;
`causal=True` counts the half that a causal kernel has to do. State which one a figure uses: at 4,096 tokens they differ
by 9% for the 1B model.
"""

from collections.abc import Iterator

from model.config import ModelConfig, PositionsConfig
from model.positions import build_schemes


def num_parameters(config: ModelConfig, positions: PositionsConfig) -> int:
    """Returns the number of trainable parameters, embedding included. Raises ModelError."""
    return sum(parameter_sizes(config, positions))


def parameter_sizes(config: ModelConfig, positions: PositionsConfig) -> Iterator[int]:
    """Yields the number of elements of every trainable parameter. Raises ModelError."""
    width, kv_width = config.hidden_size, config.key_value_heads * config.head_dim
    yield from (config.vocab_size * width, config.vocab_size * width, width)  # embedding, head, last norm
    for scheme in build_schemes(config, positions):
        yield from (width * width, kv_width * width, kv_width * width, width * width)  # q, k, v, o
        yield from (config.intermediate_size * width,) * 3
        yield from (width, kv_width, width, width)  # norms: q, k, after attention, after the MLP
        yield from (num_outputs * num_inputs for num_outputs, num_inputs in scheme.maps().values())


def head_flops_per_token(config: ModelConfig) -> float:
    """Returns the share of `flops_per_token` that the language model head takes: no block, never recomputed."""
    return 6.0 * config.vocab_size * config.hidden_size


def flops_per_token(config: ModelConfig, positions: PositionsConfig, sequence_length: int, causal: bool) -> float:
    """Returns the FLOPs of forward and backward pass per token, in rows of `sequence_length` without document masks.

    Raises ModelError.
    """
    scores_and_mix = 2 * config.num_layers * config.hidden_size * sequence_length  # multiply-adds, forward
    attention = scores_and_mix / 2 if causal else scores_and_mix
    return 6.0 * (_num_matmul_weights(config, positions) + attention)


def _num_matmul_weights(config: ModelConfig, positions: PositionsConfig) -> int:
    """Returns the number of weights that a token is multiplied with: all but the embedding and the norms."""
    width, kv_width = config.hidden_size, config.key_value_heads * config.head_dim
    layer = 2 * width * (width + kv_width) + 3 * width * config.intermediate_size
    maps = sum(scheme.num_parameters for scheme in build_schemes(config, positions))
    return config.num_layers * layer + maps + config.vocab_size * width
