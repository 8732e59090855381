"""An exported folder holds the model, whole or not at all."""

import json
import os
import resource
import socket
import stat
import subprocess
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import Olmo2ForCausalLM

from model.config import PositionsConfig, YarnConfig
from model.errors import ModelError
from model.export import save_hf
from model.transformer import Olmo2
from model.weights import hf_weights, initialise
from tests.model.small import REPO, ROPE, built, small


@pytest.mark.parametrize("max_shard_bytes", [10**9, 40_000])
@pytest.mark.parametrize("num_kv_heads", [None, 2])
def test_transformers_loads_a_rope_export_unchanged(
    tmp_path: Path, max_shard_bytes: int, num_kv_heads: int | None
) -> None:
    config = small(num_kv_heads=num_kv_heads)
    model, tokens = built(config, ROPE), torch.randint(96, (1, 9))
    save_hf(tmp_path / "out", config, ROPE, model.named_parameters(), max_shard_bytes)
    assert (len(list((tmp_path / "out").glob("*.safetensors"))) > 1) == (max_shard_bytes < 10**9)
    loaded: object = Olmo2ForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    theirs, found = cast("tuple[Olmo2ForCausalLM, dict[str, Any]]", loaded)  # typed as the model alone
    assert not any(found.values())
    assert theirs.dtype == torch.float32
    torch.testing.assert_close(theirs(tokens).logits, model(tokens), atol=1e-5, rtol=0)


def test_yarn_is_kept_by_the_export(tmp_path: Path) -> None:
    yarn = PositionsConfig(scheme="rope", yarn=YarnConfig(factor=4.0, original_max_position=64))
    model, tokens = built(small(), yarn), torch.randint(96, (1, 200))
    save_hf(tmp_path / "out", small(), yarn, model.named_parameters())
    theirs = Olmo2ForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(theirs(tokens).logits, model(tokens), atol=1e-4, rtol=0)
    assert theirs.config.max_position_embeddings == 256  # some readers infer the factor from this


@pytest.mark.parametrize("max_shard_bytes", [10**9, 40_000])
def test_a_repo_model_comes_back_bit_for_bit(tmp_path: Path, max_shard_bytes: int) -> None:
    model, tokens = built(small(), REPO), torch.randint(96, (1, 9))
    save_hf(tmp_path / "out", small(), REPO, model.named_parameters(), max_shard_bytes)
    again = Olmo2(small(), REPO)
    initialise(again, hf_weights(tmp_path / "out", small(), REPO, seed=99), "cpu")
    assert torch.equal(again(tokens), model(tokens))


def test_weights_are_held_one_file_at_a_time(tmp_path: Path) -> None:
    limit, alive, most = 40_000, [0], [0]

    def dropped(num_bytes: int) -> None:
        alive[0] -= num_bytes

    def fresh() -> Iterator[tuple[str, torch.Tensor]]:
        for name, value in built(small(), REPO).state_dict().items():
            memory = value.numpy().copy()
            alive[0] += memory.nbytes
            most[0] = max(most[0], alive[0])
            weakref.finalize(memory, dropped, memory.nbytes)
            yield name, torch.from_numpy(memory)
            del memory

    save_hf(tmp_path / "out", small(), REPO, fresh(), limit)
    largest = max(value.nbytes for value in built(small(), REPO).state_dict().values())
    assert alive[0] == 0 and limit < most[0] <= limit + 2 * largest


def test_an_export_is_whole_or_absent(tmp_path: Path) -> None:
    parameters = list(built(small(), REPO).named_parameters())
    for wrong, said in (
        (parameters[:-1], "1 parameters were not given, lm_head.weight"),
        ([*parameters, parameters[0]], "embed_tokens.weight .* came twice"),
        ([("norm.weight", torch.ones(3))], r"norm.weight \[3\] is no parameter"),
    ):
        with pytest.raises(ModelError, match=said):
            save_hf(tmp_path / "out", small(), REPO, wrong, max_shard_bytes=40_000)
        assert list(tmp_path.iterdir()) == []


def test_an_export_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match="exists; remove it or choose another folder"):
        save_hf(tmp_path / "out", small(), ROPE, [])


@pytest.mark.parametrize("place", ["file/out", "file/deeper/out", "n" * 250])
def test_a_folder_that_cannot_be_made_is_named_as_it_was_asked_for(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError) as raised:
        save_hf(tmp_path / place, small(), REPO, built(small(), REPO).named_parameters())
    assert raised.value.filename == str(tmp_path / place) and "partial" not in str(raised.value)


def test_a_full_disk_is_an_error_of_the_system_and_leaves_nothing(tmp_path: Path) -> None:
    parameters, before = list(built(small(), REPO).named_parameters()), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))  # of a file, in place of a disk
    try:
        with pytest.raises(OSError, match=f"^{tmp_path}/out: .*File too large"):
            save_hf(tmp_path / "out", small(), REPO, parameters)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_the_dtype_of_the_weights_is_stated(tmp_path: Path) -> None:
    save_hf(tmp_path / "out", small(), ROPE, built(small(), ROPE).bfloat16().named_parameters())
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == "bfloat16"


def test_the_weights_can_be_cast_on_the_way(tmp_path: Path) -> None:
    model, seen = built(small(), REPO), list[tuple[int, int]]()
    save_hf(
        tmp_path / "out",
        small(),
        REPO,
        model.named_parameters(),
        dtype=torch.bfloat16,
        report=lambda done, total: seen.append((done, total)),
    )
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    weights = hf_weights(tmp_path / "out", small(), REPO, seed=9)
    assert all(torch.equal(weights(name), value.bfloat16().float()) for name, value in model.named_parameters())
    assert seen == [(number, len(seen)) for number in range(1, len(list(model.parameters())) + 1)]


def test_what_a_killed_export_left_is_removed_by_the_next(tmp_path: Path) -> None:
    killed = subprocess.Popen(["true"])
    killed.wait()
    left = tmp_path / f".out.{socket.gethostname().replace('.', '_')}-{killed.pid}-{killed.pid}.partial"
    left.mkdir()
    (left / "config.json").write_text("{}")
    save_hf(tmp_path / "out", small(), REPO, built(small(), REPO).named_parameters())
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_files_have_the_mode_of_other_new_files(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        save_hf(tmp_path / "out", small(), REPO, built(small(), REPO).named_parameters(), 40_000)
    finally:
        os.umask(before)
    files = list((tmp_path / "out").iterdir())
    assert {path.suffix for path in files} == {".json", ".py", ".safetensors"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o640}
