"""Rows to train on: whole samples, fresh in each stage, equal for all schemes; and a tokenizer of their words."""

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from evaluate.errors import EvaluateError
from evaluate.replicate.config import CorpusConfig, read_config
from evaluate.replicate.corpus import ANSWER, EOS, UNKNOWN, make_rows, write_rows, write_tokenizer

LISTS = CorpusConfig(tasks=["copy", "reverse"], row_length=48, vocab_size=64)


def tokenizer_of(corpus: CorpusConfig, folder: Path) -> Tokenizer:
    write_tokenizer(corpus, folder / "tokenizer.json")
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def test_rows_hold_whole_samples_with_their_answers(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(LISTS, tmp_path)
    rows = make_rows(LISTS, tokenizer, "1/stage-1", 200)
    assert rows.shape == (200, 48) and (rows == tokenizer.token_to_id(EOS)).mean() < 0.2
    assert not (rows == tokenizer.token_to_id(UNKNOWN)).any()
    lengths = set()
    for row in rows:
        text = tokenizer.decode(row.tolist(), skip_special_tokens=False)
        assert text.count(ANSWER) == len([part for part in text.split(EOS) if part.strip()])
        text = text.replace(f"{ANSWER} ", "")
        for document in filter(None, (part.strip() for part in text.split(EOS))):
            kind = "Reversed" if "Reversed" in document else "Copy"
            _, *questions = document.replace("\n", " ").split("List: ")
            assert len(questions) == 2  # the solved example, and the question
            for question in questions:
                items, answer = (part.split() for part in question.split(f"{kind}: "))
                assert answer == (items[::-1] if kind == "Reversed" else items)
            lengths.add(len(items))
    assert lengths == set(range(2, max(lengths) + 1)) and max(lengths) >= 14


def test_rows_are_a_function_of_their_name(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(LISTS, tmp_path)
    rows, again = (make_rows(LISTS, tokenizer, "1/stage-1", 50) for _ in range(2))
    assert np.array_equal(rows, again)
    assert np.array_equal(make_rows(LISTS, tokenizer, "1/stage-1", 20), rows[:20])
    for other in ("1/stage-2", "2/stage-1"):
        fresh = make_rows(LISTS, tokenizer, other, 50)
        assert not {row.tobytes() for row in fresh} & {row.tobytes() for row in rows}


def test_rows_on_disk_are_kept(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(LISTS, tmp_path)
    for count in (30, 40):
        write_rows(LISTS, tokenizer, "x", count, tmp_path / "rows")
    assert np.fromfile(tmp_path / "rows" / "rows.npy", "<u2").size == 30 * 48


def test_needles_in_pieces_of_words_come_back_from_the_tokenizer(tmp_path: Path) -> None:
    corpus = CorpusConfig(tasks=["niah_single_1"], row_length=160, is_bpe=True, vocab_size=800)
    tokenizer = tokenizer_of(corpus, tmp_path)
    assert tokenizer.get_vocab_size() == 800
    for row in make_rows(corpus, tokenizer, "x", 20):
        text = tokenizer.decode(row.tolist())
        assert text.startswith("A special magic number is hidden within the following text.")


def test_words_beyond_the_vocabulary_are_an_error(tmp_path: Path) -> None:
    corpus = CorpusConfig(tasks=["key_value"], row_length=48, vocab_size=64)
    with pytest.raises(EvaluateError, match=r"corpus\.vocab_size=64 is too small for \d+ words"):
        write_tokenizer(corpus, tmp_path / "tokenizer.json")


@pytest.mark.parametrize("size", ["cpu", "gpu", "tiny"])
def test_sizes_are_valid(size: str) -> None:
    config = read_config([f"size={size}"])
    assert config.schemes[0] == "rope" and config.primary.task in config.corpus.tasks
    if size != "tiny":
        assert config.schemes == ["rope", "nope", "r2n1", "n2r1", "repo", "residual"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give one size=NAME: cpu, gpu, tiny"),
        (["size=cpuu"], "there is no size=cpuu; did you mean cpu?"),
        (["size=tiny", "sed=1"], r"there is no key sed; did you mean seeds\?"),
        (["size=tiny", "corpus.task=[copy]"], r"there is no key corpus\.task; did you mean corpus\.tasks\?"),
        (["size=tiny", "xyzzy=1"], r"there is no key xyzzy; configs/replicate/tiny\.yaml has those that there are"),
        (["size=tiny", "seeds=[9]"], r"seeds \[9\] are in tuning.seeds too"),
        (["size=tiny", "schemes=[residual]"], "lack rope"),
        (["size=tiny", "primary.scheme=repo"], "primary.scheme=repo is none of"),
        (["size=tiny", "schemes=[rope,residual,rep]"], r"schemes=.* no scheme rep; did you mean repo\?"),
        (
            ["size=tiny", "schemes=[rope,residual,foo]"],
            "no scheme foo; there are nope, repo, residual, rope, r2n1, n2r1",
        ),
        (
            ["size=tiny", "corpus.tasks=[reverse,cop]"],
            r"corpus\.tasks=cop: .* did you mean copy\?",
        ),
        (["size=tiny", "parallel=0"], "parallel=0 must be 1 or more"),
        (["size=tiny", "probes.num_samples=0"], "probes.num_samples=0 must be 1 or more"),
        (["size=tiny", "primary.lengths=[64]"], r"primary.lengths=\[64\]: not in probes.lengths"),
    ],
)
def test_a_wrong_setting_is_named(arguments: list[str], said: str) -> None:
    with pytest.raises(EvaluateError, match=said):
        read_config(arguments)
