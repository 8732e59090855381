"""The promises of data/stream.py, on both backends: the same batches and exact resumption, whatever the topology."""

import dataclasses
import gc
import os
import pickle
import signal
from contextlib import closing
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import psutil
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.config import DataConfig, DataKind, RepetitionFilterConfig, SourceConfig
from data.errors import DataError
from data.stream import build_stream, changed_data, merge_states
from data.text.backend import TextBackend
from data.tokens.backend import TokenBackend
from tests.data.reading import assert_same, read_global


@pytest.fixture(scope="module")
def token_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokens")
    for number, size in enumerate((7000, 1900, 3000)):
        tokens = np.random.default_rng(number).integers(0, 50, size, dtype="<u4")
        tokens.tofile(folder / f"part-{number}.npy")
    (folder / "files.txt").write_text("".join(f"part-{number}.npy\n" for number in (2, 0, 1)))
    return folder


@pytest.fixture(params=["text", "tokens"])
def any_config(request: pytest.FixtureRequest, config: DataConfig, token_files: Path) -> DataConfig:
    if request.param == "text":
        return config
    return DataConfig(DataKind.tokens, root=str(token_files), file_list=str(token_files / "files.txt"), eos_token_id=0)


class Shape(TypedDict):
    """The shape of global batches."""

    length: int
    batch_size: int


@st.composite
def configurations(draw: st.DrawFn, sample: Path, token_files: Path) -> tuple[DataConfig, Shape]:
    """A random text mix or list of token files, and the shape of its batches."""
    num_streams = draw(st.sampled_from([8, 16, 24]))
    shape = Shape(length=draw(st.integers(8, 200)), batch_size=num_streams * draw(st.integers(1, 2)))
    rule = RepetitionFilterConfig(enabled=draw(st.booleans()), max_count=draw(st.integers(2, 6)))
    common: dict[str, Any] = {
        "seed": draw(st.integers(0, 99)),
        "prefetch": draw(st.integers(1, 3)),
        "repetition_filter": rule,
    }
    if draw(st.booleans()):
        files = str(token_files / "files.txt")
        return DataConfig(DataKind.tokens, str(token_files), file_list=files, eos_token_id=0, **common), shape
    names = draw(st.lists(st.sampled_from(["web", "code", "math", "qa"]), min_size=1, max_size=3, unique=True))
    config = DataConfig(
        root=str(sample),
        sources={name: SourceConfig([f"{name}/*"], draw(st.floats(0.05, 1.0))) for name in names},
        tokenizer="tokenizer.json",
        num_streams=num_streams,
        frame_bytes=draw(st.sampled_from([4096, 65536])),
        files_per_group=draw(st.integers(1, 4)),
        **common,
    )
    return config, shape


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_batches_are_the_same_on_any_topology_and_after_resuming_onto_another(
    data: st.DataObject, sample: Path, token_files: Path
) -> None:
    config, shape = data.draw(configurations(sample, token_files))
    expected, end = read_global(config, 12, **shape)
    state, step = None, 0
    while step < 12:
        num_steps = data.draw(st.integers(1, 12 - step))
        batches, state = read_global(
            config,
            num_steps,
            world_size=data.draw(st.sampled_from([1, 2, 4, 8])),
            num_workers=data.draw(st.sampled_from([0, 2, 3])),
            state=state,
            **shape,
        )
        assert_same(expected[step : step + num_steps], batches)
        step += num_steps
    assert state == end


@pytest.mark.parametrize(("world_size", "num_workers"), [(1, 2), (1, 3), (2, 0), (2, 3), (4, 2), (8, 0), (8, 3)])
def test_global_batches_do_not_depend_on_world_size_or_workers(
    any_config: DataConfig, world_size: int, num_workers: int
) -> None:
    expected, state = read_global(any_config, 4, batch_size=48)
    batches, other_state = read_global(any_config, 4, batch_size=48, world_size=world_size, num_workers=num_workers)
    assert_same(expected, batches)
    assert other_state == state


def test_backends_can_be_sent_to_a_fresh_process(any_config: DataConfig) -> None:
    make = TextBackend if any_config.kind is DataKind.text else TokenBackend
    backend = make(any_config, 64, 16)
    num_bytes = len(pickle.dumps(backend))
    expected = next(backend.read(range(4), backend.start(range(4))))
    copy = pickle.loads(pickle.dumps(backend))
    np.testing.assert_array_equal(next(copy.read(range(4), copy.start(range(4)))).tokens, expected.tokens)
    assert len(pickle.dumps(backend)) < num_bytes + 10_000  # no file that was read goes with it


def test_state_before_the_first_batch_is_the_beginning(any_config: DataConfig) -> None:
    expected, _ = read_global(any_config, 2)
    _, start = read_global(any_config, 0, world_size=2)
    assert_same(expected, read_global(any_config, 2, state=start)[0])


def test_state_is_of_the_last_batch_handed_out_however_far_workers_are_ahead(config: DataConfig) -> None:
    config = dataclasses.replace(config, prefetch=8)
    assert read_global(config, 3, num_workers=2)[1] == read_global(config, 3)[1]


def test_a_larger_batch_goes_on_with_the_next_rows_of_each_stream(config: DataConfig) -> None:
    _, state = read_global(config, 4, batch_size=16)
    wide, _ = read_global(config, 1, batch_size=32, state=state)
    narrow, _ = read_global(config, 2, batch_size=16, state=state)
    per_stream = [batch.tokens.reshape(8, 2, -1) for batch in narrow]
    np.testing.assert_array_equal(wide[0].tokens.reshape(8, 4, -1), np.concatenate(per_stream, axis=1))


def test_boundaries_cut_rows_after_each_eos(config: DataConfig) -> None:
    with closing(build_stream(config, sequence_length=256, global_batch_size=16)) as stream:
        num_cuts = 0
        for _ in range(20):
            batch = stream.next_batch()
            assert (batch.tokens.dtype, batch.sources.dtype, batch.loss_mask.dtype) == (np.uint32, np.int16, bool)
            assert batch.tokens.max() <= stream.max_token_id
            for row, boundaries in zip(batch.tokens, batch.boundaries, strict=True):
                assert boundaries.dtype == np.int32 and boundaries[0] == 0 and boundaries[-1] == 256
                assert (np.diff(boundaries) > 0).all()
                assert (row[boundaries[1:-1] - 1] == stream.eos_token_id).all()
                assert (row[:-1] == stream.eos_token_id).sum() == len(boundaries) - 2
                num_cuts += len(boundaries) - 2
        assert num_cuts


def test_merging_refuses_parts_that_do_not_belong_together(config: DataConfig) -> None:
    def part(rank: int, num_steps: int) -> dict:
        stream = build_stream(config, sequence_length=64, global_batch_size=16, rank=rank, world_size=2)
        for _ in range(num_steps):
            stream.next_batch()
        return stream.state_dict()

    with pytest.raises(DataError, match="4 of 8 streams"):
        merge_states([part(0, 1)])
    with pytest.raises(DataError, match="agree in batches"):
        merge_states([part(0, 1), part(1, 2)])
    with pytest.raises(DataError, match="different cursors of data stream 0"):
        other = part(0, 1)
        other["streams"]["0"] = {"row": 9, "cursors": []}
        merge_states([part(0, 1), part(1, 1), other])
    with pytest.raises(DataError, match="merge the parts of all ranks"):
        build_stream(config, sequence_length=64, global_batch_size=16).load_state_dict(part(0, 1))


def test_what_changed_since_a_checkpoint_is_named(config: DataConfig) -> None:
    saved = build_stream(config, sequence_length=64, global_batch_size=16).fingerprint
    assert changed_data(saved, dict(saved)) == {}
    config.sources["web"].weight = 0.9
    changed = dataclasses.replace(config, seed=43)
    current = build_stream(changed, sequence_length=128, global_batch_size=16).fingerprint
    changes = changed_data(saved, current)
    assert changes["data.seed"] == ("42", "43")
    assert changes["sequence_length"] == ("64", "128")
    assert changes["data.sources.web.weight"][0] == "0.6"
    assert "data.num_streams" not in changes


def test_an_accepted_change_goes_on_in_each_source_where_it_was(config: DataConfig) -> None:
    _, state = read_global(config, 20)
    old = [dict(zip(state["sources"], p["cursors"], strict=True)) for p in state["streams"].values()]
    code = config.sources.pop("code")
    web = SourceConfig(["web/shard-0[12]*"], config.sources.pop("web").weight)  # fewer files, and another place
    config.sources.update({"code": code, "web": web, "math": SourceConfig(["math/*"], 0.5)})
    backend = TextBackend(config, 64, 16)
    restored = backend.restore(state["streams"], state["sources"])
    for position, before in zip(restored.values(), old, strict=True):
        after = dict(zip(backend.source_names, position["cursors"], strict=True))
        assert position["row"] == 20 * 16 // config.num_streams
        assert after["encyclopedia"] == before["encyclopedia"] and after["code"] == before["code"]
        assert after["math"] == [0, 0, 0, 0, 0]
        assert after["web"] in (before["web"], [before["web"][0] + 1, 0, 0, 0, 0])
    expected, _ = read_global(config, 5, state=state)
    assert_same(expected, read_global(config, 5, state=state, world_size=2)[0])


@pytest.mark.parametrize(
    ("changes", "world_size", "message"),
    [
        ({"root": "nowhere"}, 1, "data.root: there is no folder nowhere"),
        ({"root": ""}, 1, "data.root is not set"),
        ({"tokenizer": "absent.json"}, 1, "data.tokenizer: there is no file .*absent.json"),
        ({"tokenizer": None}, 1, "data.tokenizer is not set"),
        ({"tokenizer": "manifest.json"}, 1, "manifest.json is not a tokenizer.json"),
        ({"eos_token": "hello"}, 1, "data.eos_token: 'hello' is not a special token"),
        ({"num_streams": 5}, 1, r"data.num_streams = 5 .* set it to one of \[1, 2, 4, 8, 16\]"),
        ({"num_streams": 2}, 4, r"data.num_streams = 2 .* 4 ranks; set it to one of \[4, 8, 16\]"),
        ({"num_streams": 10}, 2, r"data.num_streams = 10 .* 16 rows; set it to one of \[2, 4, 8, 16\]"),  # not 1
        ({}, 3, "global batch size of 16 rows cannot be shared by 3 ranks"),
        ({"sources": {}}, 1, "data.sources is empty"),
        ({"seed": -1}, 1, "data.seed must be 0 or more"),
        ({"kind": DataKind.tokens}, 1, "data.file_list is not set"),
    ],
)
def test_mistakes_get_one_line_with_the_remedy(
    config: DataConfig, changes: dict, world_size: int, message: str
) -> None:
    config = dataclasses.replace(config, **changes)
    with pytest.raises(DataError, match=message) as error:
        build_stream(config, sequence_length=64, global_batch_size=16, world_size=world_size)
    assert "\n" not in str(error.value)


def test_sources_without_weight_or_files_are_refused(config: DataConfig) -> None:
    config.sources["web"].files = ["web/*.parquet"]
    with pytest.raises(DataError, match=r"data.sources.web.files: 'web/\*.parquet' matches no file"):
        build_stream(config, sequence_length=64, global_batch_size=16)
    for source in config.sources.values():
        source.weight = 0.0
    with pytest.raises(DataError, match="no weight above 0"):
        build_stream(config, sequence_length=64, global_batch_size=16)


def test_workers_ignore_the_signals_of_a_scheduler_and_end_with_the_stream(config: DataConfig) -> None:
    config = dataclasses.replace(config, num_workers=2)
    before = set(psutil.Process().children())
    stream = build_stream(config, sequence_length=64, global_batch_size=16)
    stream.next_batch()
    workers = set(psutil.Process().children()) - before
    for worker in workers:
        for notice in (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM):
            os.kill(worker.pid, notice)
    for _ in range(8):
        stream.next_batch()
    stream.close()
    gc.collect()
    assert len(workers) >= 2
    assert not psutil.wait_procs(workers, timeout=600)[1]


def test_workers_do_not_change_the_random_numbers_of_the_trainer(config: DataConfig) -> None:
    torch.manual_seed(0)
    expected = torch.random.get_rng_state()
    read_global(config, 1, num_workers=2)
    assert torch.equal(expected, torch.random.get_rng_state())


def test_a_mistake_that_a_worker_finds_is_still_one_line(config: DataConfig, tmp_path: Path) -> None:
    np.zeros(6400, "<u4").tofile(tmp_path / "good.npy")
    np.full(6400, 10**6, "<u4").tofile(tmp_path / "page.npy")
    (tmp_path / "files.txt").write_text("good.npy\npage.npy\n")
    (tmp_path / "tokenizer.json").write_bytes((Path(config.root) / "tokenizer.json").read_bytes())
    tokens = DataConfig(
        DataKind.tokens,
        root=str(tmp_path),
        file_list=str(tmp_path / "files.txt"),
        tokenizer="tokenizer.json",
        num_workers=2,
    )
    with closing(build_stream(tokens, sequence_length=64, global_batch_size=16)) as stream:
        with pytest.raises(DataError, match=r"page\.npy holds token id 1000000") as error:
            for _ in range(10):
                stream.next_batch()
        assert "\n" not in str(error.value)
