"""Compiled blocks train as eager ones do, in few graphs without breaks, and hide nothing from hooks."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model import norm_rotate
from model.activations import activations
from model.attention import Documents
from model.config import ModelConfig
from tests.distributed import run_ranks
from tests.model.small import REPO, small
from tests.model.small import built as built_alone
from tests.train.engine.reference import RATES, batch, built, configured, num_valid
from tests.train.probe import events, metrics, start
from tests.train.tiny import LENGTH, tiny, write_tokens
from train.distributed import Ranks
from train.engine import compilation
from train.engine.compilation import Compilation, resolve_compile
from train.engine.config import Precision
from train.engine.engine import Engine, MicroBatch
from train.errors import TrainError

CPU, GPU = torch.device("cpu"), torch.device("cuda")
NOISE = 5e-6
KINDS = 2  # of layers in the tiny model: RoPE and RePo
COARSE = {  # noise of figures that are not smooth, or of a small difference
    "gradient_slope": 1e-2,
    "gradient_residual": 1e-2,
    "rank_correlation": 2e-3,  # eight swaps of neighbours among 48 tokens
}


def test_auto_compiles_on_a_gpu_unless_zero_3_is_used() -> None:
    auto = ModelConfig()
    assert resolve_compile(auto, GPU, 2) and not resolve_compile(auto, GPU, 3) and not resolve_compile(auto, CPU, 2)
    assert resolve_compile(ModelConfig(compile=True), CPU, 1) and not resolve_compile(
        ModelConfig(compile=False), GPU, 1
    )


def test_zero_3_is_refused_in_one_line() -> None:
    with pytest.raises(
        TrainError, match=r"^model\.compile=true does not work with engine\.zero_stage=3.*model\.compile=auto"
    ):
        resolve_compile(ModelConfig(compile=True), CPU, 3)
    with pytest.raises(TrainError, match=r"^model\.compile=true"):  # before any rank is started
        tiny(Path(), model__compile=True, engine__zero_stage=3).validate()


@pytest.mark.skipif(torch.cuda.is_available(), reason="without a GPU, Triton's interpreter runs it on the CPU")
def test_the_kernel_for_gpus_is_tried_and_not_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norm_rotate, "_is_on_gpu", lambda x: True)
    monkeypatch.setattr(norm_rotate, "_found", {})
    monkeypatch.setattr(compilation, "BACKEND", "eager")
    model = built_alone(small(), REPO)
    compiled = Compilation(model, CPU)
    with torch.no_grad():
        model(torch.arange(4)[None])
    assert compiled.num_graphs == KINDS + 1 and list(norm_rotate._found.values()) == [True]


def trained(engine: Engine, documents: bool) -> list[float]:
    """Returns the losses of the micro-batches of three updates, of one without a gradient, and the norms."""
    seen: list[float] = []
    for step, rates in enumerate(RATES):
        tokens, labels = batch(step)
        for first in range(0, len(tokens), engine.micro_batch_size):
            rows = slice(first, first + engine.micro_batch_size)
            micro = MicroBatch(tokens[rows], labels[rows])
            if documents:  # other boundaries in every micro-batch
                cuts = np.array([0, 5 + first + step, LENGTH])
                micro = replace(micro, documents=Documents.from_boundaries([cuts] * engine.micro_batch_size))
            seen.append(float(engine.accumulate(micro, num_valid(step)).total))
        seen.append(float(engine.evaluate(MicroBatch(tokens[:3, :20], labels[:3, :20])).total))
        seen.append(engine.update(*rates).grad_norm)
    return seen


def hooked(engine: Engine) -> set[str]:
    """Returns which hooks run in a micro-batch if they are added after compiling, as the position watch adds them."""
    tokens, labels = batch(0)
    ran: set[str] = set()
    _, module = next(engine.model.learned_positions())
    final = module.get_submodule("final")

    def on_positions(module: Any, inputs: Any, z: torch.Tensor) -> None:
        ran.add("positions")
        z.register_hook(lambda gradient: ran.add("gradient") or None)  # type: ignore[func-returns-value]

    hooks = [
        module.register_forward_hook(on_positions),
        final.register_forward_pre_hook(lambda module, inputs: ran.add("map") or None),  # type: ignore[func-returns-value]
    ]
    engine.accumulate(MicroBatch(tokens[:2], labels[:2]), num_valid(0))
    for hook in hooks:
        hook.remove()
    return ran


def other_shapes(engine: Engine) -> tuple[list[tuple[int, ...]], str]:
    """Returns the shapes that compiled, and how one more shape than allowed ends."""
    tokens, labels = batch(0)
    shapes = []
    try:
        for length in range(LENGTH - 1, 0, -1):
            engine.accumulate(MicroBatch(tokens[:1, :length], labels[:1, :length]), 1)
            assert engine.compilation is not None
            shapes.append(engine.compilation.shape)
    except TrainError as error:
        return shapes, str(error)
    return shapes, ""


def train_both(ranks: Ranks, stage: int, precision: Precision, checkpointing: bool) -> dict[str, Any]:
    from torch._dynamo.utils import counters

    compilation.BACKEND, compilation.MAX_SHAPES = "aot_eager", 2
    seen: dict[str, Any] = {"losses": [], "names": []}
    for compiled in (False, True):
        config = configured(stage, precision, model__compile=compiled, model__activation_checkpointing=checkpointing)
        engine = built(ranks, config)
        seen["losses"].append(trained(engine, documents=stage == 2))
        seen["names"].append([name for name, _ in engine.model.named_parameters()])
    assert engine.compilation is not None
    seen["graphs"], seen["hooks"] = engine.compilation.num_graphs, hooked(engine)
    seen["graphs_after_hooks"], seen["seconds"] = engine.compilation.num_graphs, engine.compilation.seconds
    if checkpointing:
        seen["shapes"], seen["refusal"] = other_shapes(engine)
    seen["breaks"] = dict(counters["graph_break"])
    return seen


def check(seen: dict[str, Any], noise: float) -> None:
    eager, compiled = seen["losses"]
    assert compiled == pytest.approx(eager, rel=noise)
    assert seen["names"][0] == seen["names"][1]
    # Heads of each kind of layer, and what follows attention: boundaries and hooks make no more, other shapes do.
    assert seen["graphs"] == seen["graphs_after_hooks"] == KINDS + 1 and seen["breaks"] == {} and seen["seconds"] > 0
    assert seen["hooks"] == {"positions", "map", "gradient"}


def test_losses_equal_eager_ones_in_three_graphs_that_no_hook_or_boundary_changes() -> None:
    seen = run_ranks(train_both, 1, 2, Precision.fp32, False)[0]
    check(seen, NOISE)


@pytest.mark.slow
def test_so_they_do_in_bf16_with_checkpointing_and_other_shapes_end_in_one_line() -> None:
    seen = run_ranks(train_both, 1, 1, Precision.bf16, True)[0]
    check(seen, 1e-2)
    assert seen["shapes"] == [(1, LENGTH - 1), (1, LENGTH - 2)]  # two kinds of layers leave room for a third shape
    assert seen["refusal"].startswith("model.compile: micro-batches have too many shapes, the last is [1, ")


def run_compiled(ranks: Ranks, root: Path, backend: str) -> None:
    compilation.BACKEND = backend
    for name in ("eager", "compiled", "stopped"):
        config = tiny(root, name=name, model__compile=name != "eager", mask_documents=True)
        start(config, ranks, stop_rank=0 if name == "stopped" else None, stop_step=3)
        if name == "stopped":
            start(config, ranks)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_compiled_run_is_watched_and_resumes_to_the_bit(backend: str, tmp_path: Path) -> None:
    write_tokens(tmp_path / "tokens")
    run_ranks(run_compiled, 1, tmp_path, backend)
    eager, compiled, stopped = (metrics(tmp_path, name) for name in ("eager", "compiled", "stopped"))
    assert stopped == compiled
    compiles = [
        [e for e in events(tmp_path, name) if e["event"] == "compile"] for name in ("eager", "compiled", "stopped")
    ]
    shape = [2, LENGTH]
    assert [[(e["step"], e["graphs"], e["shape"]) for e in of] for of in compiles] == [
        [],
        [(1, KINDS + 1, shape)],
        [(1, KINDS + 1, shape), (4, KINDS + 1, shape)],
    ]
    for was, now in zip(eager, compiled, strict=True):
        assert was.keys() == now.keys()
        for name, value in was.items():
            noise = COARSE.get(name.rpartition("/")[2], 1e-4)
            assert now[name] == pytest.approx(value, abs=noise, rel=noise), name


def saved_per_token(ranks: Ranks) -> list[float]:
    """Returns the bytes per token that the second and the third block keep for the backward pass."""
    compilation.BACKEND = "aot_eager_decomp_partition"  # decides what to keep as inductor does
    config = configured(1, Precision.bf16, model__compile=True)
    engine = built(ranks, config)
    shape, found = (2, LENGTH, config.model.hidden_size), []
    for block in list(engine.model.layers)[1:]:
        kept: dict[int, int] = {}
        tensors: list[torch.Tensor] = []

        def pack(
            tensor: torch.Tensor, kept: dict[int, int] = kept, tensors: list[torch.Tensor] = tensors
        ) -> torch.Tensor:
            tensors.append(tensor)  # so that no other takes its place
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            block(torch.randn(shape, dtype=torch.bfloat16, requires_grad=True), None)
        for parameter in engine.model.parameters():
            kept.pop(parameter.untyped_storage().data_ptr(), None)
        found.append(sum(kept.values()) / (2 * LENGTH))
    return found


@pytest.mark.slow
def test_compiled_blocks_keep_what_plans_reckon_with() -> None:
    config = configured(1, Precision.bf16)

    def kept(num_layers: int) -> float:
        config.model.num_layers = num_layers
        sizes = activations(
            config.model, config.positions, rows=2, length=LENGTH, element=2, on_gpu=True, compiled=True
        )
        return sizes.kept / (2 * LENGTH)

    for seen in run_ranks(saved_per_token, 1)[0]:
        assert seen == pytest.approx(kept(3) - kept(2), abs=8)  # bytes a token: the rotation's table
