"""Rows are the documents: every token of them, an EOS after each, one source a row, and nothing special inside."""

import pickle
from contextlib import closing
from pathlib import Path

import numpy as np
import orjson
import pytest
from tokenizers import Tokenizer

from data.config import DataConfig, SourceConfig
from data.errors import DataError
from data.stream import build_stream, changed_data
from data.tokenizer import PIECE_CHARACTERS, DocumentEncoder, cut_document
from tests.data.reading import encode_each


def make_config(folder: Path, sample: Path, documents: list[str], num_streams: int = 1) -> DataConfig:
    (folder / "docs").mkdir()
    (folder / "docs/a.jsonl").write_bytes(b"".join(orjson.dumps({"text": text}) + b"\n" for text in documents))
    return DataConfig(
        root=str(folder),
        sources={"docs": SourceConfig(["docs/*"], 1.0)},
        tokenizer=str(sample / "tokenizer.json"),
        num_streams=num_streams,
    )


def test_an_epoch_of_rows_is_all_documents_each_ended_by_eos(tmp_path: Path, sample: Path) -> None:
    rng = np.random.default_rng(0)
    documents = [f"Document {n}: " + "many words " * int(rng.integers(1, 60)) for n in range(100)]
    tokenizer = Tokenizer.from_file(str(sample / "tokenizer.json"))
    eos = tokenizer.token_to_id("<|endoftext|>")
    expected = sorted(tokenizer.encode(text).ids for text in documents)
    num_tokens = sum(map(len, expected)) + len(expected)
    with closing(
        build_stream(make_config(tmp_path, sample, documents), sequence_length=32, global_batch_size=1)
    ) as stream:
        tokens = np.concatenate([stream.next_batch().tokens[0] for _ in range(num_tokens // 32 + 1)])[:num_tokens]
    assert tokens[-1] == eos
    assert sorted(part[:-1].tolist() for part in np.split(tokens, np.flatnonzero(tokens == eos) + 1)[:-1]) == expected


def test_special_tokens_in_a_document_stay_text(tmp_path: Path, sample: Path) -> None:
    text = "before <|endoftext|> after"
    config = make_config(tmp_path, sample, [text])
    with closing(build_stream(config, sequence_length=64, global_batch_size=1)) as stream:
        batch = stream.next_batch()
        first = batch.tokens[0, : batch.boundaries[0][1]]
        assert first[-1] == stream.eos_token_id and stream.eos_token_id not in first[:-1]
    tokenizer = Tokenizer.from_file(str(sample / "tokenizer.json"))
    assert tokenizer.decode(first[:-1].tolist(), skip_special_tokens=False) == text


def test_one_document_feeds_any_number_of_streams(tmp_path: Path, sample: Path) -> None:
    config = make_config(tmp_path, sample, ["the only document"], num_streams=8)
    with closing(build_stream(config, sequence_length=64, global_batch_size=8)) as stream:
        assert len(np.unique(stream.next_batch().tokens, axis=0)) == 1


def test_repetitive_rows_are_masked_and_others_are_not(tmp_path: Path, sample: Path) -> None:
    config = make_config(tmp_path, sample, ["\n-" * 4000])
    with closing(build_stream(config, sequence_length=64, global_batch_size=4)) as stream:
        assert not stream.next_batch().loss_mask.any()
    config.repetition_filter.enabled = False
    with closing(build_stream(config, sequence_length=64, global_batch_size=4)) as stream:
        assert stream.next_batch().loss_mask.all()


def test_a_truncated_file_is_named_before_the_first_step(tmp_path: Path, sample: Path) -> None:
    config = make_config(tmp_path, sample, ["fine"])
    truncated = (sample / "web/shard-00.jsonl.zst").read_bytes()[:-100]
    (tmp_path / "docs/b.jsonl.zst").write_bytes(truncated)
    with pytest.raises(DataError, match=r"docs/b\.jsonl\.zst is truncated") as error:
        build_stream(config, sequence_length=64, global_batch_size=1)
    assert "\n" not in str(error.value)


def test_empty_files_are_fine_beside_others_and_refused_alone(tmp_path: Path, sample: Path) -> None:
    config = make_config(tmp_path, sample, ["fine"])
    (tmp_path / "docs/empty.jsonl.zst").touch()
    build_stream(config, sequence_length=64, global_batch_size=1).next_batch()
    (tmp_path / "docs/a.jsonl").write_bytes(b"")
    with pytest.raises(DataError, match="hold no documents"):
        build_stream(config, sequence_length=64, global_batch_size=1)


def test_a_very_long_document_is_read_in_pieces_with_one_end(tmp_path: Path, sample: Path) -> None:
    rng = np.random.default_rng(0)
    words = ["alpha", "beta", "gamma", "delta 17", "x = y + 1", "(see below)"]
    text = "".join(f"{words[int(n)]}{' ' if n else chr(10)}" for n in rng.integers(0, 6, 100_000))
    encoder = DocumentEncoder(sample / "tokenizer.json", "<|endoftext|>")
    pieces = cut_document(text)
    assert len(pieces) > 2 and max(len(piece.text) for piece in pieces) <= PIECE_CHARACTERS
    assert "".join(piece.text for piece in pieces) == text
    assert [piece.is_last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    tokenizer = Tokenizer.from_file(str(sample / "tokenizer.json"))
    whole = tokenizer.encode(text, add_special_tokens=False).ids
    np.testing.assert_array_equal(encoder.encode([text]), [*whole, encoder.eos_token_id])
    long, short = encode_each(encoder, [text, "short"])
    assert len(long) == len(whole) + 1 and short[-1] == encoder.eos_token_id
    config = make_config(tmp_path, sample, [text])
    with closing(build_stream(config, sequence_length=len(whole) // 8, global_batch_size=1)) as stream:
        rows = [stream.next_batch().tokens[0] for _ in range(7)]
        state = stream.state_dict()
        expected = stream.next_batch().tokens
    np.testing.assert_array_equal(np.concatenate(rows), whole[: 7 * (len(whole) // 8)])
    assert state["streams"]["0"]["cursors"][0][3] > 0  # the next start begins with this piece
    with closing(build_stream(config, sequence_length=len(whole) // 8, global_batch_size=1)) as resumed:
        resumed.load_state_dict(state)
        np.testing.assert_array_equal(resumed.next_batch().tokens, expected)


def test_a_document_without_line_ends_is_cut_all_the_same() -> None:
    pieces = cut_document("x" * (2 * PIECE_CHARACTERS + 5))
    assert [len(piece.text) for piece in pieces] == [PIECE_CHARACTERS, PIECE_CHARACTERS, 5]


def test_truncation_and_padding_of_a_tokenizer_file_are_ignored(tmp_path: Path, sample: Path) -> None:
    tokenizer = Tokenizer.from_file(str(sample / "tokenizer.json"))
    texts = ["short", "many words " * 50]
    expected = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=64)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    encoder = DocumentEncoder(tmp_path / "tokenizer.json", "<|endoftext|>")
    assert [tokens[:-1].tolist() for tokens in encode_each(encoder, texts)] == expected


def test_other_content_in_a_file_of_the_same_size_is_another_fingerprint(tmp_path: Path, sample: Path) -> None:
    config = make_config(tmp_path, sample, ["one document", "another"])
    before = build_stream(config, sequence_length=8, global_batch_size=1).fingerprint
    path = tmp_path / "docs/a.jsonl"
    path.write_bytes(path.read_bytes().replace(b"one", b"two"))
    changes = changed_data(before, build_stream(config, sequence_length=8, global_batch_size=1).fingerprint)
    assert list(changes) == ["data.sources.docs.files"]


def test_an_encoder_keeps_specials_as_text_after_pickling(sample: Path) -> None:
    encoder = DocumentEncoder(sample / "tokenizer.json", "<|endoftext|>")
    copy = pickle.loads(pickle.dumps(encoder))
    texts = ["a <|endoftext|> b", "", "c"]
    np.testing.assert_array_equal(copy.encode(texts), encoder.encode(texts))
    assert (encoder.encode(texts) == encoder.eos_token_id).sum() == 3
    assert encoder.encode([]).dtype == np.uint32
