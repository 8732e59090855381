"""The promises of data/stream.py, on both backends: the same batches and exact resumption, whatever the topology."""

import dataclasses
import gc
import os
import pickle
import signal
from contextlib import closing
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from data.config import DataConfig, DataKind
from data.errors import DataError
from data.stream import build_stream, check_resume, merge_states
from data.text import TextBackend
from data.tokens import TokenBackend
from tests.data.reading import assert_same, read_global


@pytest.fixture(params=["text", "tokens"])
def any_config(request: pytest.FixtureRequest, config: DataConfig, tmp_path: Path) -> DataConfig:
    if request.param == "text":
        return config
    for number, size in enumerate((700, 1900, 3000)):
        tokens = np.random.default_rng(number).integers(0, 50, size, dtype="<u4")
        tokens.tofile(tmp_path / f"part-{number}.npy")
    (tmp_path / "files.txt").write_text("".join(f"part-{number}.npy\n" for number in (2, 0, 1)))
    return DataConfig(DataKind.tokens, root=str(tmp_path), file_list=str(tmp_path / "files.txt"), eos_token_id=0)


def test_global_batches_do_not_depend_on_world_size_or_workers(any_config: DataConfig) -> None:
    expected, state = read_global(any_config, 6)
    for world_size, num_workers in ((2, 0), (4, 0), (8, 0), (1, 2), (2, 2)):
        batches, other_state = read_global(any_config, 6, world_size=world_size, num_workers=num_workers)
        assert_same(expected, batches)
        assert other_state == state


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_resume_is_exact_on_any_topology(any_config: DataConfig, seed: int) -> None:
    rng = np.random.default_rng(seed)
    expected, _ = read_global(any_config, 24)
    state, step = None, 0
    while step < 24:
        num_steps = min(int(rng.integers(1, 12)), 24 - step)
        world_size, num_workers = int(rng.choice([1, 2, 4, 8])), int(rng.choice([0, 0, 2]))
        batches, state = read_global(
            any_config, num_steps, world_size=world_size, num_workers=num_workers if world_size < 4 else 0, state=state
        )
        assert_same(expected[step : step + num_steps], batches)
        step += num_steps


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
    with pytest.raises(DataError, match="different positions of data stream 0"):
        other = part(0, 1)
        other["streams"]["0"] = {"row": 9, "cursors": []}
        merge_states([part(0, 1), part(1, 1), other])
    with pytest.raises(DataError, match="merge the parts of all ranks"):
        build_stream(config, sequence_length=64, global_batch_size=16).load_state_dict(part(0, 1))


def test_resume_names_what_changed(config: DataConfig) -> None:
    saved = build_stream(config, sequence_length=64, global_batch_size=16).fingerprint
    check_resume(saved, dict(saved))
    config.sources["web"].weight = 0.9
    changed = dataclasses.replace(config, seed=43)
    current = build_stream(changed, sequence_length=128, global_batch_size=16).fingerprint
    with pytest.raises(DataError) as error:
        check_resume(saved, current)
    for fragment in ("data.seed was 42, is 43", "sequence_length was 64, is 128", "data.sources.web.weight was 0.6"):
        assert fragment in str(error.value)
    assert "num_streams" not in str(error.value)


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


def test_workers_survive_the_notices_of_a_scheduler_and_end_with_the_stream(config: DataConfig) -> None:
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
    assert not psutil.wait_procs(workers, timeout=10)[1]


def test_workers_leave_the_random_numbers_of_the_trainer_alone(config: DataConfig) -> None:
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
