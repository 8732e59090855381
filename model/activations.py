"""How many bytes a forward pass keeps for the backward pass, and what both take beside that; without torch.

The counts are those of autograd for model/transformer.py, tensor by tensor (tests/model/test_activations.py holds them
against its saved tensors). RMSNorm keeps its input and a scale per token; in half precision on a CPU it keeps two
float32 tensors of its width. Cosines and sines of learned positions are kept on a CPU only.
"""

from dataclasses import dataclass

from model.config import AttentionBackend, ModelConfig, NormPrecision, PositionsConfig
from model.positions import build_schemes

FLOAT32 = 4
CHUNKS_PER_PRODUCT = 4
"""Chunks of logits whose gradients, in half precision, are kept for one product into the head's (model/loss.py)."""


@dataclass(frozen=True)
class Activations:
    """Bytes of one micro-batch on one rank."""

    kept: int
    """From the forward pass to the backward pass."""
    loss: int
    """Beside `kept`, at the largest, while the loss is computed: logits of a chunk, gradients of the head."""
    backward: int
    """Beside `kept`, at the largest, in the backward pass: of one block, which checkpointing computes once more."""


def activations(
    config: ModelConfig,
    positions: PositionsConfig,
    *,
    rows: int,
    length: int,
    element: int,
    on_gpu: bool,
    mask_documents: bool = False,
    compiled: bool = False,
) -> Activations:
    """Returns the bytes of a micro-batch of `rows` x `length` tokens; `element`: bytes of an activation, 2 for bf16.

    `compiled` blocks keep what norms on a GPU keep, and make silu(gate) again in the backward pass.

    Raises ModelError if the positions do not fit the model.
    """
    tokens, width = rows * length, config.hidden_size
    schemes = build_schemes(config, positions)
    cos_sin = 0 if on_gpu or compiled else FLOAT32 * config.key_value_heads * config.head_dim  # half for each
    maps = [scheme.kept_bytes(element) + cos_sin * scheme.is_learned for scheme in schemes]
    block = _block_bytes_per_token(config, element, on_gpu or compiled) + _score_bytes_per_token(config, length)
    if compiled:
        block -= element * config.intermediate_size
    if config.activation_checkpointing:
        kept_by_blocks, again = config.num_layers * element * width, block + max(maps)
    else:
        kept_by_blocks, again = config.num_layers * block + sum(maps), 0
    masks = 0
    is_varlen = config.attention is AttentionBackend.flash_attn or (
        on_gpu and element < FLOAT32 and config.attention is not AttentionBackend.plain
    )
    if mask_documents and not is_varlen:  # booleans; each layer makes numbers
        masks = rows * length * length * (1 + element * (1 if config.activation_checkpointing else config.num_layers))
    token_ids = 8
    kept = tokens * (token_ids + kept_by_blocks + _norm_bytes_per_token(config, width, element, on_gpu)) + masks
    transient = tokens * element * (3 * config.intermediate_size + 2 * width)  # gradients within an MLP
    head_gradient = element * config.vocab_size * width
    return Activations(kept, _loss_bytes(config, tokens, element), tokens * again + transient + head_gradient)


def _block_bytes_per_token(config: ModelConfig, element: int, on_gpu: bool) -> int:
    width, kv_width = config.hidden_size, config.key_value_heads * config.head_dim
    tensors = 4 * width + 2 * kv_width + 4 * config.intermediate_size  # h, q, attention, h between; k, v; the SwiGLU's
    norms = sum(_norm_bytes_per_token(config, of, element, on_gpu) for of in (width, kv_width, width, width))
    return element * tensors + norms


def _norm_bytes_per_token(config: ModelConfig, width: int, element: int, on_gpu: bool) -> int:
    scale = FLOAT32
    if config.norm_precision is NormPrecision.reference:  # the float32 input, and the unit vector as it is rounded
        return (FLOAT32 + element) * width + scale
    return (element if on_gpu or element == FLOAT32 else 2 * FLOAT32) * width + scale


def _score_bytes_per_token(config: ModelConfig, length: int) -> int:
    """Returns what attention keeps beside q, k, v and its output: a sum per head; `plain` keeps all weights."""
    if config.attention is AttentionBackend.plain:
        wide_copies = 3 * FLOAT32 * config.hidden_size
        return config.num_heads * FLOAT32 * length + wide_copies
    return config.num_heads * FLOAT32


def _loss_bytes(config: ModelConfig, tokens: int, element: int) -> int:
    """Returns the gradients of hidden states and head in float32, a product into the latter, and logits of a chunk.

    In half precision (model/loss.py) gradients of logits are kept for some chunks.
    """
    chunk = min(config.loss_chunk_rows, tokens)
    product = chunk if element == FLOAT32 else min(CHUNKS_PER_PRODUCT * config.loss_chunk_rows, tokens)
    num_sums = 1 if product == tokens else 2  # of the head's gradient: what is added, and to what
    gradients = FLOAT32 * config.hidden_size * (tokens + num_sums * config.vocab_size)
    rounded = 0 if element == FLOAT32 else element * product * config.vocab_size
    return gradients + FLOAT32 * chunk * config.vocab_size + rounded
