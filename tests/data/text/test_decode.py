"""Whole files are read whole in every encoding; truncated and damaged ones raise, wherever they were cut."""

import gzip
import hashlib
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import DataError
from data.text import decode
from data.text.decode import decode_lines, read_lines

LINES = [f'{{"text": "line {number}"}}'.encode() * (number % 7 + 1) for number in range(5000)]
CONTENT = b"\n".join(LINES) + b"\n"


def zstd_frames(content: bytes, num_frames: int) -> bytes:
    compressor = zstandard.ZstdCompressor(write_checksum=True)
    size = -(-len(content) // num_frames)
    return b"".join(compressor.compress(content[at : at + size]) for at in range(0, len(content), size))


def zstd_up_to(content: bytes, length: int) -> bytes:
    """The first part of one zstd frame, such that exactly `length` bytes of content can be had from it."""
    compressor = zstandard.ZstdCompressor().compressobj()
    return compressor.compress(content[:length]) + compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)


SKIPPABLE = b"\x50\x2a\x4d\x18\x04\x00\x00\x00skip"


@pytest.mark.parametrize(
    ("name", "encoded"),
    [
        ("plain.jsonl", CONTENT),
        ("no-newline.jsonl", CONTENT[:-1]),
        ("one.jsonl.zst", zstd_frames(CONTENT, 1)),
        ("frames.jsonl.zst", zstd_frames(CONTENT, 9)),
        ("skippable.jsonl.zst", SKIPPABLE + zstd_frames(CONTENT, 2) + SKIPPABLE),
        ("members.jsonl.gz", gzip.compress(CONTENT[:999]) + gzip.compress(CONTENT[999:])),
        ("misnamed.jsonl", gzip.compress(CONTENT)),
    ],
)
def test_every_encoding_gives_the_same_lines(tmp_path: Path, name: str, encoded: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(encoded)
    assert list(read_lines(path, hashlib.sha256(encoded).hexdigest())) == LINES


@pytest.mark.parametrize("name", ["empty.jsonl", "empty.jsonl.zst", "empty.jsonl.gz"])
def test_an_empty_file_has_no_lines(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert list(read_lines(tmp_path / name)) == []


@settings(max_examples=40)
@given(st.floats(0.0, 1.0, exclude_max=True), st.sampled_from(["zst", "gz"]))
def test_a_compressed_file_cut_anywhere_raises(
    tmp_path_factory: pytest.TempPathFactory, at: float, suffix: str
) -> None:
    encoded = zstd_frames(CONTENT, 1) if suffix == "zst" else gzip.compress(CONTENT)
    path = tmp_path_factory.mktemp("cut") / f"cut.jsonl.{suffix}"
    path.write_bytes(encoded[: max(1, int(at * len(encoded)))])
    with pytest.raises(DataError, match=f"cut.jsonl.{suffix} is truncated"):
        list(read_lines(path))


@pytest.mark.parametrize("suffix", ["zst", "gz"])
def test_a_cut_on_a_line_boundary_raises_too(tmp_path: Path, suffix: str) -> None:
    length = CONTENT.index(b"\n", len(CONTENT) // 2) + 1
    compressor = zlib.compressobj(wbits=31)
    gz = compressor.compress(CONTENT[:length]) + compressor.flush(zlib.Z_FULL_FLUSH)
    path = tmp_path / f"cut.jsonl.{suffix}"
    path.write_bytes(zstd_up_to(CONTENT, length) if suffix == "zst" else gz)
    lines: list[bytes] = []
    with pytest.raises(DataError, match="is truncated"):
        lines.extend(read_lines(path))
    reader = read_lines(path)
    assert [next(reader) for _ in range(CONTENT[:length].count(b"\n"))] == LINES[: CONTENT[:length].count(b"\n")]


@pytest.mark.parametrize("suffix", ["zst", "gz"])
def test_a_flipped_bit_raises(tmp_path: Path, suffix: str) -> None:
    encoded = bytearray(zstd_frames(CONTENT, 1) if suffix == "zst" else gzip.compress(CONTENT))
    encoded[len(encoded) // 2] ^= 1
    path = tmp_path / f"damaged.jsonl.{suffix}"
    path.write_bytes(encoded)
    with pytest.raises(DataError, match=r"damaged\.jsonl.* is (damaged|truncated)"):
        list(read_lines(path))


def test_a_file_that_is_not_the_listed_one_raises(tmp_path: Path) -> None:
    path = tmp_path / "other.jsonl"
    path.write_bytes(CONTENT)
    with pytest.raises(DataError, match="sha256"):
        list(read_lines(path, "0" * 64))


@pytest.mark.parametrize("separator", [b"\n", b"\n\n", b"<<>>"])
def test_separators_are_found_wherever_chunks_end(separator: bytes) -> None:
    parts = [b"one", b"\ntwo<<", b"", b">>three\n", b"four" * 10]
    whole = separator.join(parts)
    expected = whole.split(separator)
    for size in range(1, len(whole) + 1):
        chunks = (whole[start : start + size] for start in range(0, len(whole), size))
        assert list(decode_lines(Path("a.txt"), chunks, separator)) == expected


def test_a_line_beyond_the_limit_is_refused_before_it_is_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "MAX_LINE_BYTES", 1 << 20)
    seen = []

    def chunks() -> Iterator[bytes]:
        yield b"short\n"
        for number in range(100):
            seen.append(number)
            yield b"x" * (1 << 18)

    with pytest.raises(DataError, match=r"a\.jsonl: document 2 is longer than 1 MiB; cut it into several"):
        list(decode_lines(Path("a.jsonl"), chunks()))
    assert len(seen) == 5


@pytest.mark.slow
def test_a_line_of_300_megabytes_takes_about_four_times_its_size(sample: Path, tmp_path: Path) -> None:
    with (tmp_path / "a.jsonl").open("wb") as file:
        file.write(b'{"text": "' + b"the quick brown fox jumps over the lazy dog\\n" * 6_700_000 + b'"}\n')
    code = (
        "import resource, sys; from data.config import DataConfig, SourceConfig; from data.stream import build_stream\n"
        "sources = {'a': SourceConfig(['a.jsonl'], 1.0)}\n"
        "config = DataConfig(root=sys.argv[1], sources=sources, tokenizer=sys.argv[2], num_streams=1)\n"
        "build_stream(config, sequence_length=64, global_batch_size=1).next_batch()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    command = [sys.executable, "-c", code, str(tmp_path), str(sample / "tokenizer.json")]
    peak = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) * 1024
    assert peak < 5 * (tmp_path / "a.jsonl").stat().st_size
