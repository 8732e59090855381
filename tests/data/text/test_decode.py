"""Whole files are read whole in every encoding; truncated and damaged ones raise, wherever they were cut."""

import gzip
import hashlib
import zlib
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import DataError
from data.text.decode import read_lines

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


@settings(max_examples=40, deadline=None)
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
