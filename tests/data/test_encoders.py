"""When the encoders are compared, and what encodes then."""

import dataclasses
import errno
import logging
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import orjson
import psutil
import pytest
import tokenizers
from tokenizers import Tokenizer

import data.stream
import data.tokenizer
from data.config import DataConfig, EncoderKind, SourceConfig
from data.errors import DataError
from data.fast_encoder import FastEncoder, fast_name, load_fast
from data.rows import Rows
from data.stream import RankStream, build_stream, changed_data
from data.text.backend import TextBackend
from data.text.frames import FrameFile
from data.tokenizer import DocumentEncoder
from tests.data.reading import assert_same, encode_each, read_global
from tests.data.tokenizing import CHAT, EOS, as_defined, with_other_parts


@pytest.fixture
def different(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes the fast encoder give one wrong id for texts that contain a word, from the next load on."""
    data.tokenizer.load_fast.cache_clear()
    encode = FastEncoder.encode

    def break_at(word: str) -> None:
        def encode_wrongly(self: FastEncoder, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
            ids, ends = encode(self, texts)
            hit = next((n for n, text in enumerate(texts) if word in text), None)
            if hit is None:
                return ids, ends
            wrong = ids.copy()
            wrong[ends[hit] - 1] += 1
            return wrong, ends

        monkeypatch.setattr(FastEncoder, "encode", encode_wrongly)

    return break_at


@pytest.fixture
def own(config: DataConfig, tmp_path: Path) -> DataConfig:
    """The sample with a cache of its own, in which no verdict is kept."""
    return dataclasses.replace(config, cache_dir=str(tmp_path / "frames"))


@pytest.mark.parametrize("first", [0, 20_000])
def test_it_encodes_in_one_thread_which_survives_a_fork(
    own: DataConfig, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data.tokenizer, "TOKENIZERS_FIRST", first)  # characters: three batches
    plain = dataclasses.replace(own, encoder=EncoderKind.tokenizers)
    expected, end = read_global(plain, 4)
    threads = psutil.Process().num_threads()
    backend = TextBackend(own, 64, 16)
    backend.encoder.encode(["many words, each of them short " * 20_000] * 4)
    assert backend.encoder.encoder == fast_name() and psutil.Process().num_threads() == threads
    batches, state = read_global(own, 4, num_workers=3)
    assert_same(expected, batches)
    assert state == end
    copy = pickle.loads(pickle.dumps(backend.encoder))
    assert copy.encoder == fast_name()


# A process encodes somewhat less than these characters for the first batch, and more for the first five.
@pytest.mark.parametrize(("num_workers", "first"), [(0, 200_000), (2, 120_000)])
def test_the_first_start_on_new_files_compares_the_encoders_when_it_needs_the_fast_one(
    own: DataConfig, num_workers: int, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data.tokenizer, "TOKENIZERS_FIRST", first)
    expected, _ = read_global(dataclasses.replace(own, encoder=EncoderKind.tokenizers), 20)
    load_fast.cache_clear()
    config = dataclasses.replace(own, num_workers=num_workers)
    with closing(build_stream(config, sequence_length=64, global_batch_size=16)) as stream:
        batches = [stream.next_batch()]
        assert load_fast.cache_info().currsize == 0
        assert stream.fingerprint["data.encoder"].endswith(f" until {fast_name()} has been compared with it")
        batches += [stream.next_batch() for _ in range(19)]
    assert stream.fingerprint["data.encoder"] == fast_name()
    assert_same(expected, batches)
    (kept,) = Path(str(own.cache_dir)).glob(".encoder-*.json")
    assert len(orjson.loads(kept.read_bytes())["agreed"]) == 1 + len(own.sources)


def test_the_fast_encoder_is_not_used_before_it_has_been_compared(
    sample: Path, tmp_path: Path, different: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = sample / "tokenizer.json"
    encoder = DocumentEncoder(path, EOS, EncoderKind.auto, tmp_path, compares_later=True)
    encoder.hold_against("own", lambda: ["a zebra"])
    copy = pickle.loads(pickle.dumps(DocumentEncoder(path, EOS, EncoderKind.auto, tmp_path, compares_later=True)))
    different("zebra")
    assert encoder.encode(["a zebra"]).tolist() == as_defined(path, ["a zebra"])[0]
    assert "other ids for 'a zebra' of own" in encoder.encoder
    monkeypatch.setattr(data.tokenizer, "_first_difference", lambda *_: pytest.fail("another process has compared"))
    assert copy.encode(["a horse"]).tolist() == as_defined(path, ["a horse"])[0] and copy.encoder == fast_name()


def test_one_difference_on_the_hostile_corpus_and_tokenizers_encodes(
    sample: Path, tmp_path: Path, different: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    different(EOS)
    path = sample / "tokenizer.json"
    for _ in range(2):  # what differs is compared again at every start
        caplog.clear()
        encoder = DocumentEncoder(path, EOS, EncoderKind.auto, tmp_path)
        assert f"gives other ids for 'a{EOS}b" in encoder.encoder and len(caplog.messages) == 1
        assert [tokens.tolist() for tokens in encode_each(encoder, [EOS])] == as_defined(path, [EOS])


def test_one_difference_in_the_first_documents_and_tokenizers_encodes_the_same_rows(
    own: DataConfig, different: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    plain = dataclasses.replace(own, encoder=EncoderKind.tokenizers)
    expected, _ = read_global(plain, 3)
    first = next(TextBackend(plain, 64, 16).sources[1].first_texts())
    different(first[:60])
    with closing(build_stream(own, sequence_length=64, global_batch_size=16)) as stream:
        for _ in range(2):
            stream.next_batch()
        said = stream.fingerprint["data.encoder"]
    assert said.startswith("tokenizers") and "other ids for" in said and "encyclopedia (2 files" in said
    assert [said.partition(": ")[2] in message for message in caplog.messages if "encodes" in message] == [True]
    assert_same(expected, read_global(own, 3)[0])
    with pytest.raises(DataError, match=r"data.encoder=fastokens: fastokens .* gives other ids"):
        build_stream(dataclasses.replace(own, encoder=EncoderKind.fastokens), sequence_length=64, global_batch_size=16)


def test_workers_find_the_difference_too_and_leave_it_to_their_parent_to_say_so(
    own: DataConfig, different: Callable[[str], None], tmp_path: Path
) -> None:
    expected, _ = read_global(dataclasses.replace(own, encoder=EncoderKind.tokenizers), 3)
    different(EOS)  # of the hostile corpus
    handler = logging.FileHandler(tmp_path / "log")
    logging.getLogger("data").addHandler(handler)
    try:
        assert_same(expected, read_global(own, 3, num_workers=2)[0])
    finally:
        logging.getLogger("data").removeHandler(handler)
        handler.close()
    assert (tmp_path / "log").read_text().count("`tokenizers` encodes") == 1


def test_the_fingerprint_names_what_encodes_in_every_worker(own: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    first = TextBackend(own, 64, 16)
    encoders = iter([["a", "a"], ["a", "b"], ["b", "b"]])

    class Steps(RankStream):
        def _open_steps(self) -> Iterator[list[Rows]]:
            rows = next(first.read(range(2), first.start(range(2))))
            return ([dataclasses.replace(rows, encoder=name) for name in names] for names in encoders)

    told: list[str] = []
    monkeypatch.setattr(data.stream, "tell_encoder", lambda encoder, problem: told.append(encoder))
    stream, named = Steps(first, range(2), 2, 1), []
    for _ in range(3):
        stream.next_batch()
        named.append(stream.fingerprint["data.encoder"])
    assert (named, told) == (["a", "a and b", "b"], ["a", "b"])


def test_source_files_that_cannot_be_read_do_not_end_a_comparison(
    own: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = TextBackend(own, 64, 16)
    monkeypatch.setattr(FrameFile, "read_frame", Mock(side_effect=OSError(errno.EIO, "broken")))
    backend.encoder.compare()
    assert backend.encoder.encoder == fast_name()


def test_what_is_compared_is_what_is_encoded_in_every_form_of_a_source(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[list[str]] = []
    encoded: set[str] = set()
    encode = FastEncoder.encode

    def find_none(fast: FastEncoder, tokenizer: Tokenizer, texts: Sequence[str]) -> None:
        compared.append(list(texts))

    def note(self: FastEncoder, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        encoded.update(texts)
        return encode(self, texts)

    monkeypatch.setattr(data.tokenizer, "_first_difference", find_none)
    monkeypatch.setattr(FastEncoder, "encode", note)
    talk = [{"role": "user", "content": "hello"}, {"role": "tool", "content": "<|pad|>"}]
    record = {"text": "plain", "meta": {"body": "nested", "talk": talk}}
    (tmp_path / "a.jsonl").write_bytes(orjson.dumps(record))
    (tmp_path / "a.txt").write_text("one\n--\ntwo\n")
    (tmp_path / "chat.jinja").write_text(CHAT)
    with_other_parts(sample / "tokenizer.json").save(str(tmp_path / "parts.json"))
    lines = SourceConfig(["a.jsonl"], 1.0)
    forms = [
        (lines, ["plain"]),
        (dataclasses.replace(lines, text_key="meta.body"), ["nested"]),
        (
            dataclasses.replace(lines, messages_key="meta.talk", chat_template="chat.jinja"),
            ["user\nhello", "\n", "tool\n<|pad|>", " \n"],
        ),
        (SourceConfig(["a.txt"], 1.0), ["one\n--\ntwo"]),
        (SourceConfig(["a.txt"], 1.0, separator="\n--\n"), ["one", "two"]),
    ]
    for source, texts in forms * 2:  # in one cache folder: verdicts are kept, and not taken for another form's
        config = DataConfig(root=str(tmp_path), sources={"own": source}, tokenizer="parts.json", num_streams=1)
        encoded.clear()
        with closing(build_stream(config, sequence_length=64, global_batch_size=1)) as stream:
            stream.next_batch()
        assert encoded == set(texts)
    assert compared[1:] == [texts for _, texts in forms]  # after the hostile corpus


def test_what_was_compared_is_kept_and_the_next_start_needs_the_fast_one_alone(
    own: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = TextBackend(own, 64, 16)
    expected.encoder.compare()
    (kept,) = Path(str(own.cache_dir)).glob(".encoder-*.json")
    assert len(orjson.loads(kept.read_bytes())["agreed"]) == 1 + len(own.sources)
    monkeypatch.setattr(data.tokenizer, "load_tokenizer", lambda path, sha256: pytest.fail("was loaded"))
    again = TextBackend(own, 64, 16)
    assert again.fingerprint == {**expected.fingerprint, "data.encoder": fast_name()}
    assert again.max_token_id == expected.max_token_id
    next(again.read(range(2), again.start(range(2))))
    for broken in (b"{", orjson.dumps({**orjson.loads(kept.read_bytes()), "agreed": None})):
        kept.write_bytes(broken)
        with pytest.raises(pytest.fail.Exception, match="was loaded"):
            TextBackend(own, 64, 16)


def test_a_run_goes_on_with_another_encoder(own: DataConfig) -> None:
    plain = dataclasses.replace(own, encoder=EncoderKind.tokenizers)
    expected, end = read_global(plain, 6)
    _, state = read_global(plain, 2)
    batches, state = read_global(own, 4, state=state, num_workers=2)
    assert_same(expected[2:], batches)
    assert state == end
    saved, current = (
        build_stream(config, sequence_length=64, global_batch_size=16).fingerprint for config in (plain, own)
    )
    assert saved["data.encoder"] != current["data.encoder"] and changed_data(saved, current) == {}
    del saved["data.encoder"]  # a checkpoint of before there was a choice
    assert changed_data(saved, current) == {}


def test_logging_says_which_encoder(own: DataConfig, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        read_global(own, 2)
        read_global(own, 1)
    until = f"data.encoder: tokenizers {tokenizers.__version__} until {fast_name()} has been compared with it"
    told = [message for message in caplog.messages if message.startswith("data.encoder")]
    assert told == [until, f"data.encoder: {fast_name()}", f"data.encoder: {fast_name()}"]
