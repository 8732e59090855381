"""Reading more than was trained on: the weights of a model under YaRN (arXiv 2309.00071)."""

from dataclasses import replace

import torch

from model.config import ModelConfig, PositionsConfig, YarnConfig
from model.errors import ModelError
from model.transformer import Olmo2


def with_yarn(model: Olmo2, config: ModelConfig, positions: PositionsConfig, yarn: YarnConfig) -> Olmo2:
    """Returns a model with the very parameters of `model`, built with these configs, and with YaRN.

    Raises ModelError if the model has YaRN already, or for values out of range.
    """
    if positions.yarn is not None:
        raise ModelError(f"this model has YaRN already, of factor {positions.yarn.factor:g}: leave it as it is")
    yarn.validate()
    with torch.device("meta"):
        stretched = Olmo2(config, replace(positions, yarn=yarn))
    stretched.load_state_dict(model.state_dict(keep_vars=True), assign=True)
    return stretched.train(model.training)
