"""A remote root gives the batches of the same files in a folder, and the cache holds what is needed and no more."""

import dataclasses
import hashlib
import queue
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import orjson
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from data.config import DataConfig, DataKind, Fetch
from data.errors import DataError
from data.fetch import background, quota, retry
from data.fetch.download import download
from data.fetch.roots import matches_pattern, open_root
from data.stream import build_stream
from data.text.order import permutation
from tests.data.fetch.server import COMMIT, FileServer, reset_after, serving, status
from tests.data.reading import assert_same, read_global


@pytest.fixture(autouse=True)
def own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def server(sample: Path) -> Iterator[FileServer]:
    with serving(sample) as server:
        yield server


@pytest.fixture
def hub(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
        f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
    )
    return "hf://datasets/a/b@main"


@pytest.fixture
def bucket(sample: Path) -> Iterator[str]:
    files = fsspec.filesystem("memory")
    files.put(str(sample), "/bucket", recursive=True)
    yield "memory://bucket"
    files.rm("/bucket", recursive=True)


def at(config: DataConfig, root: str, **changes: object) -> DataConfig:
    return dataclasses.replace(config, root=root, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_web_server_gives_the_batches_of_the_folder(config: DataConfig, server: FileServer, num_workers: int) -> None:
    server.faults = {"code/shard-00.jsonl.zst": [status(500), reset_after(2000)], "manifest.json": [status(429)]}
    remote = at(config, server.url)
    expected, _ = read_global(config, 12)
    batches, remote_state = read_global(remote, 6, num_workers=num_workers)
    assert_same(expected[:6], batches)
    assert_same(expected[6:], read_global(remote, 6, world_size=2, state=remote_state)[0])
    assert not any(server.faults.values())
    local = build_stream(config, sequence_length=64, global_batch_size=16)
    assert local.fingerprint == build_stream(remote, sequence_length=64, global_batch_size=16).fingerprint


def test_the_hub_is_pinned_to_a_commit_and_then_not_needed(
    config: DataConfig, hub: str, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.files_per_group = 64  # one group: nothing is fetched ahead, perhaps after the first read has ended
    expected, _ = read_global(config, 4)
    remote = at(config, hub)
    assert_same(expected, read_global(remote, 4)[0])
    (pinned,) = Path("corpora/cache").glob("*/.listing.json")
    assert orjson.loads(pinned.read_bytes())["root"] == f"hf://datasets/a/b@{COMMIT}"
    server.seen.clear()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert_same(expected, read_global(remote, 4)[0])
    assert server.seen == []


def test_offline_says_what_is_not_there(
    config: DataConfig, hub: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(DataError, match="HF_HUB_OFFLINE is set and nothing of a/b is on this machine"):
        open_root(hub)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    build_stream(at(config, hub), sequence_length=64, global_batch_size=16)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match=r"HF_HUB_OFFLINE is set and .*jsonl\.\w+ of .* is not on this machine"):
        build_stream(at(config, hub), sequence_length=64, global_batch_size=16).next_batch()


def test_offline_a_listing_that_is_not_all_here_is_named_at_once(
    hub: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    open_root(hub).find(["web/shard-00.jsonl.zst"], "key")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match="HF_HUB_OFFLINE is set and what a/b holds is not all listed"):
        open_root(hub).find(["web/*"], "key")
    assert "trying again" not in caplog.text


def test_an_object_that_changes_in_its_bucket_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tell = MemoryFileSystem.info

    def with_etag(files: MemoryFileSystem, path: str, **options: Any) -> dict[str, Any]:
        return {**tell(files, path, **options), "ETag": hashlib.sha256(files.cat_file(path)).hexdigest()}

    def find(files: MemoryFileSystem, path: str, **options: Any) -> dict[str, Any]:
        return {"/tagged/a.npy": files.info("/tagged/a.npy")}

    monkeypatch.setattr(MemoryFileSystem, "info", with_etag)  # object stores have ETags
    monkeypatch.setattr(MemoryFileSystem, "find", find)
    files = fsspec.filesystem("memory")
    files.pipe("/tagged/a.npy", bytes(1000))
    (file,) = open_root("memory://tagged", str(tmp_path)).find(["*"], "key")
    files.pipe("/tagged/a.npy", bytes([1]) * 1000)
    with pytest.raises(DataError, match=r"a\.npy has changed on the server since it was listed"):
        download(file)
    files.pipe("/tagged/a.npy", bytes(1000))
    download(file)
    assert file.path.read_bytes() == bytes(1000)
    files.rm_file("/tagged/a.npy")


@pytest.mark.filterwarnings("ignore:Exception ignored in.*FTP")  # fsspec, over a connection it never had
@pytest.mark.parametrize("root", ["s3://", "ftp:///x", "ftp://"])
def test_an_address_without_a_host_is_one_line(root: str) -> None:
    with pytest.raises(DataError) as error:
        open_root(root).find(["x"], "key")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["", "x/", "../x", "/x", "a//b", "a/../../x"])
def test_a_name_that_leads_out_of_the_cache_is_no_file(tmp_path: Path, name: str) -> None:
    listed = {"files": {name: {"bytes": 5}, "sound": {"bytes": 5}}}
    (tmp_path / "manifest.json").write_bytes(orjson.dumps(listed))
    with serving(tmp_path) as server:
        root = open_root(server.url, str(tmp_path / "cache"))
        assert [file.name for file in root.find(["**/*"], "key")] == ["sound"]
        assert list(root.listing) == ["sound"]


def test_a_bucket_gives_the_batches_of_the_folder(config: DataConfig, bucket: str) -> None:
    assert_same(read_global(config, 4)[0], read_global(at(config, bucket), 4)[0])


def test_a_scheme_without_its_package_names_the_package() -> None:
    with pytest.raises(DataError, match=r"s3://bucket/x needs the package s3fs; install it with pip"):
        open_root("s3://bucket/x")
    with pytest.raises(DataError, match="nonsense://x is of no known kind"):
        open_root("nonsense://x")


def test_a_cache_belongs_to_one_root(server: FileServer, bucket: str, tmp_path: Path) -> None:
    open_root(server.url, str(tmp_path / "cache"))
    open_root(f"{server.url}/", str(tmp_path / "cache"))
    with pytest.raises(DataError, match=r"is the cache of http://.*, not memory://bucket"):
        open_root(bucket, str(tmp_path / "cache"))


@pytest.fixture
def bounded(config: DataConfig, server: FileServer) -> tuple[DataConfig, float]:
    """A mix that does not fit, read file by file; and the bound, in bytes."""
    total = sum(path.stat().st_size for path in Path(config.root).rglob("*.jsonl.*"))
    largest = max(path.stat().st_size for path in Path(config.root).rglob("*.jsonl.*"))
    config.sources = {"instructions": config.sources["web"]}
    config.sources["instructions"].files = ["instructions/*", "web/*", "qa/*", "papers/*"]
    config.files_per_group = 1
    bound = 6.0 * largest
    assert bound < 0.9 * total
    return config, bound


def size_of(path: Path) -> int:
    """The bytes of a file; 0 for one that another thread has just moved or deleted."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except FileNotFoundError:
        return 0


def test_files_that_the_order_has_passed_are_evicted(
    bounded: tuple[DataConfig, float], server: FileServer, tmp_path: Path
) -> None:
    config, bound = bounded
    expected, _ = read_global(config, 120, length=256)
    remote = at(config, server.url, max_cache_gib=bound / quota.GIB, cache_dir=str(tmp_path / "cache"))
    stream = build_stream(remote, sequence_length=256, global_batch_size=16)
    sizes = []
    for batch in expected:
        np.testing.assert_array_equal(stream.next_batch().tokens, batch.tokens)
        sizes.append(sum(map(size_of, (tmp_path / "cache").rglob("*"))))
    fetched = {name for method, name, _ in server.seen if method == "GET" and name.endswith((".zst", ".gz"))}
    assert len(fetched) > 10
    assert max(sizes) <= bound + config.frame_bytes  # a frame that is written while another thread measures
    assert len(list((tmp_path / "cache/.frames").glob("*.frames"))) < len(fetched)


def test_a_bound_that_cannot_hold_what_the_order_needs_is_named(config: DataConfig, server: FileServer) -> None:
    remote = at(config, server.url, max_cache_gib=1e-4)
    with pytest.raises(DataError, match=r"data.max_cache_gib = 0.0001 cannot hold what the order needs") as error:
        build_stream(remote, sequence_length=64, global_batch_size=16).next_batch()
    assert "\n" not in str(error.value)


def test_an_evicted_file_is_made_again_and_gives_the_same_batches(config: DataConfig, server: FileServer) -> None:
    remote = at(config, server.url)
    expected, _ = read_global(config, 8)
    stream = build_stream(remote, sequence_length=64, global_batch_size=16)
    for batch in expected:
        np.testing.assert_array_equal(stream.next_batch().tokens, batch.tokens)
        for cached in Path("corpora/cache").rglob("[!.]*.jsonl*"):  # fetched and ingested, not half of one
            cached.unlink(missing_ok=True)


def token_config(folder: Path) -> DataConfig:
    names = []
    for number in range(5):
        tokens = np.random.default_rng(number).integers(0, 50, 3000 + number, dtype="<u4")
        name = f"mix/source{number % 2}/part-{number}.npy"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        tokens.tofile(folder / name)
        names.append(name)
    (folder / "files.txt").write_text("\n".join(names))
    return DataConfig(DataKind.tokens, root=str(folder), file_list=str(folder / "files.txt"), eos_token_id=0)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_token_files_from_a_server_give_the_published_order(tmp_path: Path, num_workers: int) -> None:
    config = token_config(tmp_path / "remote")
    expected, _ = read_global(config, 20)
    with serving(tmp_path / "remote") as server:
        server.faults["mix/source1/part-3.npy"] = [status(503), reset_after(1000)]
        remote = at(config, server.url, fetch=Fetch.whole)
        assert_same(expected, read_global(remote, 20, num_workers=num_workers)[0])
        gets = [name for method, name, extent in server.seen if method == "GET" and extent == "bytes=0-"]
        assert len(set(gets)) == 5 and len(gets) == 6
    assert_same(expected, read_global(remote, 20)[0])


def test_token_files_that_do_not_fit_are_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    config = token_config(tmp_path / "remote")
    with serving(tmp_path / "remote") as server:
        with pytest.raises(DataError, match=r"cannot hold the .* GiB of token files, and their order needs all"):
            remote = at(config, server.url, max_cache_gib=1e-6, fetch=Fetch.whole)
            build_stream(remote, sequence_length=64, global_batch_size=16)
        assert not [name for method, name, _ in server.seen if method == "GET"]


def test_text_in_a_token_file_is_refused_without_a_tokenizer(tmp_path: Path) -> None:
    config = token_config(tmp_path)
    (tmp_path / "mix/source0/part-0.npy").write_bytes(b"<!DOCTYPE html><html>" * 1000)
    stream = build_stream(config, sequence_length=64, global_batch_size=16)
    with pytest.raises(DataError, match=r"part-0\.npy holds token id \d{9}"):
        for _ in range(10):
            stream.next_batch()


@pytest.mark.parametrize(
    ("rank", "said"), [(None, "; correct the address"), ("0", f", {retry.NUM_TRIES} times in a row; try again later")]
)
def test_a_server_that_is_down_is_one_line_which_a_rank_waits_for(
    config: DataConfig, rank: str | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.001)
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(DataError, match=rf"cannot be reached \(Connection refused\){said}") as error:
            build_stream(
                at(config, f"http://127.0.0.1:{taken.getsockname()[1]}"), sequence_length=64, global_batch_size=16
            )
    assert "\n" not in str(error.value)


def test_work_ahead_that_fails_is_an_error_only_when_it_is_needed(
    config: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead: queue.SimpleQueue[str] = queue.SimpleQueue()
    monkeypatch.setattr(background.logger, "log", lambda level, line, *values, **_: ahead.put(line % values))
    shutil.copytree(config.root, tmp_path / "copy")
    (tmp_path / "copy/manifest.json").unlink()
    second = sorted((tmp_path / "copy/web").iterdir())[permutation(6, config.seed, "web", "files", 0)[1]]
    second.write_bytes(second.read_bytes()[:-50])
    config.files_per_group = 1
    config.sources = {"web": config.sources["web"]}
    stream = build_stream(at(config, str(tmp_path / "copy")), sequence_length=64, global_batch_size=16)
    stream.next_batch()
    assert f"ahead of need: {second} is truncated" in ahead.get(timeout=300)  # before the stream comes to that file
    with pytest.raises(DataError, match="is truncated"):
        for _ in range(1000):
            stream.next_batch()


def test_patterns_mean_the_same_for_a_listing_and_for_a_folder(tmp_path: Path) -> None:
    names = ["a/1.jsonl", "a/b/2.jsonl", "a/b/c/3.jsonl.zst", "4.jsonl", ".x/5.jsonl", "a/.6.jsonl", "train1/0.jsonl"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for pattern in ("**/*.jsonl", "a/*", "a/**/*.jsonl*", "*.jsonl", "a/?.jsonl", "[at]*/*.jsonl", "**/[!2].jsonl"):
        found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.glob(pattern) if path.is_file()}
        visible = {name for name in found if not any(part.startswith(".") for part in name.split("/"))}
        assert {name for name in names if matches_pattern(name, pattern)} == visible, pattern
