"""Models small enough to check by finite differences, filled the way real ones are."""

from typing import Any

from model.config import ModelConfig, PositionsConfig
from model.transformer import Olmo2
from model.weights import initialise, random_weights

ROPE = PositionsConfig(scheme="rope")
REPO = PositionsConfig(scheme="repo", start_layer=1)


def small(**changes: Any) -> ModelConfig:
    """Three layers of four heads of 16."""
    sizes = {
        "vocab_size": 96,
        "hidden_size": 64,
        "intermediate_size": 112,
        "num_layers": 3,
        "num_heads": 4,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "loss_chunk_rows": 16,
        "initializer_range": 0.1,
    }
    return ModelConfig(**(sizes | changes))


def built(config: ModelConfig, positions: PositionsConfig, seed: int = 0, z_loss_weight: float = 1e-4) -> Olmo2:
    """A model of random weights on the CPU, float32."""
    model = Olmo2(config, positions, z_loss_weight)
    initialise(model, random_weights(config, positions, seed), "cpu")
    return model
