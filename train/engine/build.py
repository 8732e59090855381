"""Picks the engine by ZeRO stage and precision: the only place that knows which class serves which."""

import torch

from model.weights import Weights
from train.config import RunConfig
from train.distributed import Ranks
from train.engine.config import Precision
from train.engine.determinism import set_determinism
from train.engine.engine import Engine
from train.engine.plain import PlainEngine
from train.engine.zero3 import Zero3Engine
from train.engine.zero12 import Zero1Bf16Engine, Zero12Engine
from train.errors import TrainError

# All combinations that give right updates in DeepSpeed 0.19.8.
ENGINES: dict[tuple[int, Precision], type[Engine]] = {
    (0, Precision.fp32): PlainEngine,
    (1, Precision.fp32): Zero12Engine,
    (1, Precision.bf16): Zero1Bf16Engine,
    (2, Precision.fp32): Zero12Engine,
    (2, Precision.bf16): Zero12Engine,
    (3, Precision.fp32): Zero3Engine,
    (3, Precision.bf16): Zero3Engine,
}


def build_engine(config: RunConfig, ranks: Ranks, weights: Weights | None) -> Engine:
    """Returns the engine of this rank, its model filled with `weights`; all ranks call it.

    `weights` None leaves the parameters unfilled, because `Engine.load` follows. Raises TrainError for a config that
    does not fit the ranks, or a precision that does not work at the ZeRO stage.
    """
    precision = resolve_precision(config.engine.precision, ranks.device, config.engine.zero_stage)
    set_determinism(config.engine.deterministic)
    return ENGINES[config.engine.zero_stage, precision](config, ranks, precision, weights)


def resolve_precision(precision: Precision, device: torch.device, zero_stage: int) -> Precision:
    """Returns the precision to train in: what `auto` means on `device`, every other as it is.

    Raises TrainError for bf16 with ZeRO 0, whose first updates are wrong in DeepSpeed 0.19.8.
    """
    if precision is Precision.auto:
        precision = Precision.bf16 if device.type == "cuda" else Precision.fp32
    if (zero_stage, precision) not in ENGINES:
        raise TrainError(
            f"engine.zero_stage={zero_stage} with {precision.value} makes wrong first updates in DeepSpeed 0.19.8: "
            "use engine.zero_stage=1 (it works on one process too), or engine.precision=fp32"
        )
    return precision
