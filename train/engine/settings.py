"""DeepSpeed's own config, made from the run's."""

from typing import Any

from train.config import RunConfig, rows_per_rank
from train.engine.config import Precision


def deepspeed_config(config: RunConfig, world_size: int, precision: Precision) -> dict[str, Any]:
    """Returns DeepSpeed's config for `world_size` ranks; `precision` is a resolved one (not `auto`).

    Raises TrainError if the global batch cannot be split over the ranks and their micro-batches.
    """
    micro_batch_size, num_micro_batches = rows_per_rank(config, world_size)
    settings: dict[str, Any] = {
        "train_batch_size": config.global_batch_size,
        "train_micro_batch_size_per_gpu": micro_batch_size,
        "gradient_accumulation_steps": num_micro_batches,
        "gradient_clipping": config.optimizer.max_grad_norm,
        "steps_per_print": 10**9,
        "timers": {"throughput": {"enabled": False}},  # it waits for the device in every micro-batch
        "zero_optimization": {
            "stage": config.engine.zero_stage,
            "overlap_comm": config.engine.overlap_comm,
            "reduce_scatter": True,
            "contiguous_gradients": True,
            "reduce_bucket_size": config.engine.reduce_bucket_size,
        },
    }
    if precision is Precision.bf16:
        # ZeRO 1: each gradient is added to its sum in fp32 as soon as it is there, and released. Equal to the bit to
        # adding all at the end of the backward pass, which holds them all and clears them all in every micro-batch.
        at_once = {"immediate_grad_update": True} if config.engine.zero_stage == 1 else {}
        settings["bf16"] = {"enabled": True, **at_once}
        settings["data_types"] = {"grad_accum_dtype": "fp32"}
        settings["communication_data_type"] = "fp32"
    return settings
