"""The choice of an engine, and of a precision."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from tests.distributed import run_ranks
from tests.train.engine.reference import RATES, built, configured, micro_batches, num_valid
from train.distributed import Ranks
from train.engine.build import ENGINES, resolve_precision
from train.engine.config import Precision
from train.errors import TrainError


def test_zero_0_with_bf16_is_refused() -> None:
    with pytest.raises(TrainError, match=r"engine\.zero_stage=0 with bf16 .*engine\.zero_stage=1 .*precision=fp32"):
        resolve_precision(Precision.bf16, torch.device("cpu"), zero_stage=0)
    assert resolve_precision(Precision.bf16, torch.device("cpu"), zero_stage=1) is Precision.bf16


def test_auto_is_bf16_on_a_gpu_and_fp32_on_a_cpu() -> None:
    assert resolve_precision(Precision.auto, torch.device("cuda"), zero_stage=2) is Precision.bf16
    assert resolve_precision(Precision.auto, torch.device("cpu"), zero_stage=0) is Precision.fp32


def test_every_stage_and_precision_but_one_has_an_engine() -> None:
    resolved = {(stage, precision) for stage in (0, 1, 2, 3) for precision in (Precision.fp32, Precision.bf16)}
    assert set(ENGINES) == resolved - {(0, Precision.bf16)}


def test_the_package_itself_does_not_import_torch() -> None:
    code = "import sys, train.engine; sys.exit('torch' in sys.modules or 'deepspeed' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def trained(ranks: Ranks) -> tuple[set[str], bool]:
    """One update at ZeRO 2, one at ZeRO 3; returns the modules that are loaded, and whether `F.linear` is as before."""
    linear = F.linear
    for stage in (2, 3):
        engine = built(ranks, configured(stage, Precision.fp32))
        for micro in micro_batches(0, ranks.rank):
            engine.accumulate(micro, num_valid(0))
        engine.update(*RATES[0])
        engine.close()
    return set(sys.modules), F.linear is linear


def test_an_engine_does_not_load_the_compiler_of_torch_and_gives_its_linear_back() -> None:
    for loaded, is_as_before in run_ranks(trained, 2):
        assert is_as_before  # DeepSpeed replaces it under ZeRO 3
        assert "deepspeed.runtime.zero.muon.original_muon" in loaded
        assert "torch._inductor.compile_fx" not in loaded
