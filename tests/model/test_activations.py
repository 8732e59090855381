"""The bytes that a forward pass is said to keep are those that autograd keeps, tensor by tensor."""

import pytest
import torch
from torch import Tensor

from model.activations import activations
from model.attention import Documents
from model.config import AttentionBackend, ModelConfig, NormPrecision, PositionPrecision, PositionsConfig
from model.transformer import Olmo2

ROWS, LENGTH, VOCAB_SIZE, WIDTH = 2, 48, 160, 64
LOSS_GRADIENTS = 4 * WIDTH * (ROWS * LENGTH + VOCAB_SIZE)  # the loss is the end of the graph: these are its own
GIB = 2**30


def small(**changes: object) -> ModelConfig:
    sizes = {"vocab_size": VOCAB_SIZE, "hidden_size": WIDTH, "intermediate_size": 192, "num_layers": 3, "num_heads": 4}
    return ModelConfig(**{**sizes, "eos_token_id": 0, "pad_token_id": 0, "loss_chunk_rows": 64, **changes})  # type: ignore[arg-type]


def saved_bytes(config: ModelConfig, positions: PositionsConfig, dtype: torch.dtype, documents: bool) -> int:
    """Returns the bytes of all storages that autograd keeps of one forward pass, parameters left out."""
    model = Olmo2(config, positions).to(dtype)
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    tokens = torch.zeros(ROWS, LENGTH, dtype=torch.int64)
    cuts = Documents.from_boundaries([[0, 10, LENGTH], [0, LENGTH]]) if documents else None
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(tokens, tokens, cuts)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    return sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("changes", "positions"),
    [
        ({}, PositionsConfig("repo", start_layer=1)),
        ({}, PositionsConfig("repo", start_layer=0, precision=PositionPrecision.reference)),
        ({"num_kv_heads": 2}, PositionsConfig("repo", start_layer=0)),
        ({}, PositionsConfig("nope")),
        ({"norm_precision": NormPrecision.reference}, PositionsConfig("rope")),
        ({"activation_checkpointing": True}, PositionsConfig("repo")),
        ({"num_layers": 1}, PositionsConfig("rope")),
    ],
)
def test_what_a_forward_pass_keeps_is_counted_exactly(
    changes: dict[str, object], positions: PositionsConfig, dtype: torch.dtype
) -> None:
    config = small(**changes)
    counted = activations(config, positions, rows=ROWS, length=LENGTH, element=dtype.itemsize, on_gpu=False).kept
    measured = saved_bytes(config, positions, dtype, documents=False) - LOSS_GRADIENTS
    tables = config.num_layers * 8 * LENGTH + 64  # 0, 1, 2, ... of RoPE and the frequencies, of no row
    assert 0 <= measured - counted <= tables


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_masks_and_all_weights_of_attention_are_counted(dtype: torch.dtype) -> None:
    positions = PositionsConfig("nope")

    def counted(config: ModelConfig, mask_documents: bool) -> int:
        element = dtype.itemsize
        return activations(
            config, positions, rows=ROWS, length=LENGTH, element=element, on_gpu=False, mask_documents=mask_documents
        ).kept

    booleans = ROWS * LENGTH * LENGTH  # kept by the documents, not by autograd
    masked = saved_bytes(small(), positions, dtype, documents=True) - LOSS_GRADIENTS
    assert counted(small(), True) == masked + booleans
    plain = small(attention=AttentionBackend.plain)
    measured = saved_bytes(plain, positions, dtype, documents=False) - LOSS_GRADIENTS
    assert measured <= counted(plain, False) <= 1.2 * measured


def test_the_1b_model_on_a_gpu_by_hand() -> None:
    config, positions = ModelConfig(), PositionsConfig(scheme="rope")

    def of(rows: int, chunk_rows: int = 4096, checkpointing: bool = False) -> tuple[int, int, int]:
        changed = ModelConfig(loss_chunk_rows=chunk_rows, activation_checkpointing=checkpointing)
        counted = activations(changed, positions, rows=rows, length=4096, element=2, on_gpu=True)
        return counted.kept, counted.loss, counted.backward

    kept, loss, _ = of(1)
    assert kept / 4096 / config.num_layers == pytest.approx(104 * 1024, rel=5e-3)  # 104 KiB a token and layer
    assert of(4)[0] == 4 * kept
    assert of(1, checkpointing=True)[0] == pytest.approx(0.25 * GIB, rel=0.1)
    logits, gradients, head = 4096 * 100352 * 4, 4096 * 100352 * 2, 4 * 100352 * 2048
    assert loss == logits + gradients + head + 4 * 4096 * 2048
    assert of(1, chunk_rows=1024)[1] == loss - logits + logits // 4
    assert of(4)[1] == logits + 4 * gradients + head + 4 * 4 * 4096 * 2048
    assert of(8)[1] == logits + 4 * gradients + 2 * head + 8 * 4 * 4096 * 2048
    repo = activations(config, PositionsConfig(), rows=1, length=4096, element=2, on_gpu=True).kept
    assert repo - kept == 11 * 4096 * (3 * 4 * 256 + 4 * 16)  # in 11 of 16 layers
