"""The promises of data/tokenizer.py: the ids are those of `tokenizers`, whatever encodes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import orjson
import psutil
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import data.tokenizer
from data.config import EncoderKind
from data.errors import DataError
from data.fast_encoder import FastEncoder, fast_name
from data.text.chat import MARK, ChatTemplate, cut_rendered
from data.tokenizer import DocumentEncoder
from tests.data.reading import encode_each
from tests.data.tokenizing import CHAT, EOS, as_defined, with_other_parts


def of_whole_words() -> Tokenizer:
    """Returns a tokenizer of another kind, without merges."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "the": 1, "a": 2, EOS: 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens([EOS])
    return tokenizer


@pytest.fixture(scope="module")
def paths(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three kinds of tokenizer.json."""
    folder = tmp_path_factory.mktemp("tokenizers")
    with_other_parts(sample / "tokenizer.json").save(str(folder / "parts.json"))
    of_whole_words().save(str(folder / "words.json"))
    return {"sample": sample / "tokenizer.json", "parts": folder / "parts.json", "words": folder / "words.json"}


FRAGMENTS = st.one_of(
    st.text(max_size=12),
    st.text(st.characters(codec="utf-8", categories=["Z", "C", "M", "S"]), max_size=8),
    st.sampled_from(
        [EOS, "<|pad|>", "<|im_start|>", "|||PHONE|||", "<mask>", " <mask> ", EOS[:-1], "'s", "'LL", "\r\n"]
    ),
    st.builds(str.__mul__, st.sampled_from([" ", "\n", "a", "=", "7", "\u3000", "\u00e9"]), st.integers(1, 300)),
)


@settings(max_examples=60)
@given(texts=st.lists(st.lists(FRAGMENTS, max_size=6).map("".join), max_size=5), kind=st.sampled_from(EncoderKind))
@pytest.mark.parametrize("name", ["sample", "parts", "words"])
def test_any_encoder_gives_the_ids_of_tokenizers(
    name: str, kind: EncoderKind, texts: list[str], paths: dict[str, Path]
) -> None:
    if (name, kind) == ("words", EncoderKind.fastokens):
        kind = EncoderKind.auto  # that it cannot be had is another test
    encoder = DocumentEncoder(paths[name], EOS, kind, paths["words"].parent)
    assert [tokens.tolist() for tokens in encode_each(encoder, texts)] == as_defined(paths[name], texts)


TALKS = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "tool "]), "content": st.lists(FRAGMENTS, max_size=4).map("".join)}
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=60)
@given(talks=st.lists(TALKS, max_size=3), kind=st.sampled_from(EncoderKind))
@pytest.mark.parametrize("name", ["sample", "parts", "words"])
def test_any_encoder_gives_the_same_ids_for_chats(
    name: str, kind: EncoderKind, talks: list[list[dict[str, str]]], paths: dict[str, Path]
) -> None:
    if (name, kind) == ("words", EncoderKind.fastokens):
        kind = EncoderKind.auto
    tokenizer = Tokenizer.from_file(str(paths[name]))
    tokenizer.encode_special_tokens = True
    special = tuple(token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special)
    documents = [ChatTemplate(CHAT, special, EOS).render(talk) for talk in talks]

    def ids_of(number: int, part: str) -> list[int]:
        if number % 2:
            return [tokenizer.get_vocab()[part]]
        return list(tokenizer.encode(part, add_special_tokens=False).ids)

    expected = [
        [token for number, part in enumerate(document.split(MARK)) for token in ids_of(number, part)]
        for document in documents
    ]
    encoder = DocumentEncoder(paths[name], EOS, kind, paths["words"].parent)
    encoded = encode_each(encoder, documents, cut_rendered)
    assert [tokens.tolist() for tokens in encoded] == [[*ids, encoder.eos_token_id] for ids in expected]
    if name == "parts":
        assert all("<|im_start|>" in document.split(MARK)[1::2] for document in documents)


@pytest.mark.parametrize("name", ["sample", "parts"])
def test_the_fast_encoder_passes_the_hostile_corpus(name: str, paths: dict[str, Path]) -> None:
    encoder = DocumentEncoder(paths[name], EOS, EncoderKind.auto)
    assert encoder.encoder == fast_name()
    long = ["no_space" * 40_000, "\r\n" * 50_000, " " * 100_000, "\u4e2d\u6587" * 50_000]
    plain = DocumentEncoder(paths[name], EOS)
    assert plain.encoder == f"tokenizers {tokenizers.__version__}"
    np.testing.assert_array_equal(encoder.encode(long), plain.encode(long))


def test_the_first_characters_of_a_process_need_not_wait_for_the_fast_encoder(
    paths: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    DocumentEncoder(paths["sample"], EOS, EncoderKind.auto, tmp_path)  # compares, and keeps the verdict
    monkeypatch.setattr(data.tokenizer, "TOKENIZERS_FIRST", 1000)
    loaded: list[Path] = []

    def load(path: Path, sha256: str) -> FastEncoder:
        loaded.append(path)
        return FastEncoder(path)

    monkeypatch.setattr(data.tokenizer, "load_fast", load)
    encoder = DocumentEncoder(paths["sample"], EOS, EncoderKind.auto, tmp_path)
    texts = [f"{number} of the first words; " * 10 for number in range(6)]
    is_loaded = []
    for text, ids in zip(texts, as_defined(paths["sample"], texts), strict=True):
        assert encoder.encode([text]).tolist() == ids
        is_loaded.append(bool(loaded))
    assert is_loaded == [False] * 4 + [True] * 2 and encoder.encoder == fast_name()
    compared = DocumentEncoder(paths["sample"], EOS, EncoderKind.auto)  # which has loaded it
    monkeypatch.setattr(data.tokenizer, "_encode_slowly", lambda tokenizer, texts: pytest.fail("was used"))
    compared.encode(texts[:1])


def test_a_tokenizer_that_the_fast_one_cannot_load_is_encoded_all_the_same(
    paths: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    encoder = DocumentEncoder(paths["words"], EOS, EncoderKind.auto)
    assert f"tokenizers {tokenizers.__version__}: {fast_name()} cannot load this tokenizer" in encoder.encoder
    (line,) = caplog.messages
    assert line.startswith("data.encoder: `tokenizers` encodes") and "\n" not in line
    with pytest.raises(DataError, match=r"data.encoder=fastokens: .* set data.encoder to auto or tokenizers"):
        DocumentEncoder(paths["words"], EOS, EncoderKind.fastokens)


@pytest.mark.parametrize("kind", EncoderKind)
def test_a_tokenizer_with_dropout_is_refused(sample: Path, tmp_path: Path, kind: EncoderKind) -> None:
    values = orjson.loads((sample / "tokenizer.json").read_bytes())
    values["model"]["dropout"] = 0.1
    path = tmp_path / "tokenizer.json"
    path.write_bytes(orjson.dumps(values))
    with pytest.raises(DataError, match=r"with a BPE dropout of 0\.1 a text has no fixed ids; set it to null"):
        DocumentEncoder(path, EOS, kind, tmp_path)


def test_without_the_library_tokenizers_encodes(sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data.tokenizer, "fast_name", lambda: None)
    encoder = DocumentEncoder(sample / "tokenizer.json", EOS, EncoderKind.auto)
    assert encoder.encoder.endswith(": fastokens is not installed") and len(encoder.encode(["text"])) > 1


def test_texts_that_the_fast_encoder_gives_up_on_are_encoded_by_tokenizers(
    paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = DocumentEncoder(paths["sample"], EOS, EncoderKind.auto)
    encode = FastEncoder.encode

    def give_up(self: FastEncoder, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        return encode(self, [f"\ud800{text}" if "hard" in text else text for text in texts])

    monkeypatch.setattr(FastEncoder, "encode", give_up)
    texts = ["easy", "hard"]
    assert [tokens.tolist() for tokens in encode_each(encoder, texts)] == as_defined(paths["sample"], texts)


def test_long_documents_are_encoded_a_part_at_a_time(sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data.tokenizer, "CHARACTERS_AT_ONCE", 3 << 18)
    encoder = DocumentEncoder(sample / "tokenizer.json", EOS, EncoderKind.fastokens)
    encode, taken = encoder.encode_pieces, []

    def note(pieces: Sequence[data.tokenizer.Piece]) -> tuple[np.ndarray, np.ndarray]:
        taken.append(sum(len(piece.text) for piece in pieces))
        return encode(pieces)

    monkeypatch.setattr(encoder, "encode_pieces", note)
    texts = ["short", "a word\n" * 300_000, "", "another word\n" * 40_000, "end"]
    tokens, ends = encoder.encode_documents(texts)
    assert sum(taken) == sum(map(len, texts)) and len(taken) == 3 and max(taken) <= 4 << 18
    alone = [encoder.encode_documents([text])[0] for text in texts]
    np.testing.assert_array_equal(tokens, np.concatenate(alone))
    np.testing.assert_array_equal(ends, np.cumsum([len(own) for own in alone]))
    tokens, ends = encoder.encode_documents([])
    assert (tokens.dtype, ends.dtype, len(tokens), len(ends)) == (np.uint32, np.int64, 0, 0)


@pytest.mark.slow
def test_memory_is_bounded_however_many_new_words_come(sample: Path) -> None:
    encoder = DocumentEncoder(sample / "tokenizer.json", EOS, EncoderKind.fastokens)
    rng = np.random.default_rng(0)

    def encode(num_megabytes: int) -> int:
        for _ in range(num_megabytes):
            letters = rng.integers(97, 123, (200_000, 5)).astype(np.uint8)
            letters[:, 4] = 32
            encoder.encode([letters.tobytes().decode()])
        return psutil.Process().memory_info().rss

    before = encode(400)
    assert encode(1200) - before < 32 << 20
