"""Losses by index in long documents: which tokens are read, what they sum to, folders that are gone on with."""

import itertools
import json
import math
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import zstandard
from tokenizers import Tokenizer
from torch.utils._python_dispatch import TorchDispatchMode

from data.errors import DataError
from evaluate.__main__ import main
from evaluate.errors import EvaluateError
from evaluate.perplexity.config import parse_config
from evaluate.perplexity.documents import Chosen, Document, choose, python_texts, texts_of
from evaluate.perplexity.measure import ModelReader, Rows, Variant, bins, measure
from evaluate.perplexity.tables import Line, differences, lines, markdown, per_document, shown_bins
from evaluate.subject import ModelSubject
from evaluate.verbs.opening import Opened
from model.config import PositionsConfig, YarnConfig
from model.yarn import with_yarn
from report.evaluation.means import Mean
from tests.model.small import built, small
from train.evaluation.validation_loss import buckets

TEXT = "The night train stops at <|endoftext|> every town. "


class Counting:
    """Gives token t the loss t, t / 2 under YaRN; stops at a pass as a signal would."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.passes: list[tuple[int, float | None]] = []
        self._stop_at = stop_at

    def losses(self, tokens: np.ndarray, factor: float | None) -> np.ndarray:
        """Returns the losses of all tokens after the first."""
        if len(self.passes) == self._stop_at:
            raise KeyboardInterrupt
        self.passes.append((len(tokens), factor))
        return tokens[1:] / (2.0 if factor else 1.0)


def documents(*lengths: int) -> list[Document]:
    """Returns documents of tokens that differ."""
    return [Document("own", np.arange(length) + 1000 * number) for number, length in enumerate(lengths)]


def silent(variant: str, done: int, total: int) -> None:
    """Reports nothing."""


def test_ranges_are_powers_of_two_and_a_tables_are_those_of_evaluations_in_training() -> None:
    assert bins(8) == [(0, 1), (1, 2), (2, 4), (4, 8)] and bins(11)[-1] == (8, 11) and bins(2) == [(0, 1), (1, 2)]
    for length in (64, 4096):
        assert shown_bins(length, length) == [*buckets(length), (0, length)]
    assert shown_bins(16384, 4096)[:2] == [(0, 256), (256, 512)] and shown_bins(16384, 4096)[-2:] == [
        (8192, 16384),
        (0, 16384),
    ]


def test_losses_are_those_of_all_logits_which_are_never_in_memory_at_once(sample: Path) -> None:
    tokenizer = Tokenizer.from_file(str(sample / "tokenizer.json"))
    config, positions = small(vocab_size=512), PositionsConfig("list", layers=["rope", "repo", "nope"])
    model, yarn = built(config, positions), YarnConfig(factor=2.0, original_max_position=128)

    def subject(factor: float | None) -> ModelSubject:
        chosen = with_yarn(model, config, positions, yarn) if factor else model
        return ModelSubject(chosen, tokenizer, torch.device("cpu"), [0])

    tokens = np.random.default_rng(0).integers(0, 512, 256)
    with Largest() as seen:
        found = ModelReader(subject).losses(tokens, 2.0)
    text = torch.from_numpy(tokens)
    with torch.no_grad():
        logits = subject(2.0).model(text[None, :-1])[0]
    assert torch.allclose(
        F.cross_entropy(logits, text[1:], reduction="none"), torch.from_numpy(found).float(), atol=1e-5
    )
    assert seen.num_elements < 256 * 512 // 2  # neither all logits nor a weight for each pair of tokens
    assert not np.allclose(ModelReader(subject).losses(tokens, None), found)


class Largest(TorchDispatchMode):
    """Sees the largest tensor that an operation returns."""

    num_elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation."""
        found = func(*args, **(kwargs or {}))
        for each in found if isinstance(found, tuple | list) else [found]:
            if isinstance(each, torch.Tensor):
                self.num_elements = max(self.num_elements, each.numel())
        return found


def write_texts(folder: Path, *num_repeats: int) -> Path:
    """Writes documents of so many sentences each."""
    folder.mkdir()
    texts = [f"Number {number}. " + TEXT * repeats for number, repeats in enumerate(num_repeats)]
    (folder / "a.jsonl").write_text("".join(json.dumps({"body": text}) + "\n" for text in texts))
    return folder


def chosen_of(path: Path, tokenizer: Tokenizer, *lengths: int, number: int = 9, **flags: bool) -> Chosen:
    texts = texts_of(path, "body")
    return choose(texts, tokenizer, 0, lengths, number, **({"pack": False, "same": False} | flags))


def test_documents_that_reach_longer_lengths_come_first(sample: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(sample / "tokenizer.json"))
    folder = write_texts(tmp_path / "texts", 1, 4, 9, 4, 9, 9)
    chosen = chosen_of(folder, tokenizer, 64, 160, number=3)
    assert chosen.about() == "documents of at least so many tokens: 3 of 64, 3 of 160 (6 were looked at)"
    assert [id(each) for each in chosen.by_length[64]] == [id(each) for each in chosen.by_length[160]]
    more = chosen_of(folder, tokenizer, 64, 160, number=4)
    assert [len(more.by_length[length]) for length in (64, 160)] == [4, 3]
    assert len(chosen_of(folder, tokenizer, 64, 160, number=4, same=True).by_length[64]) == 3
    eos = tokenizer.token_to_id("<|endoftext|>")
    assert all(eos not in each.tokens for each in chosen.by_length[64])  # the text of it is plain text
    with pytest.raises(EvaluateError, match=r"no document of 9,000 tokens or more among the 6 of .*: give shorter"):
        chosen_of(folder, tokenizer, 9000)
    said = r"pack=true did not fill 9,000 tokens: the 6 documents of .* have [1-9][\d,]+ in all,"
    with pytest.raises(EvaluateError, match=said):
        chosen_of(folder, tokenizer, 9000, pack=True)
    packed = chosen_of(folder, tokenizer, 300, pack=True).by_length[300]
    assert len(packed) >= 2 and all(len(each.tokens) == 300 for each in packed)
    shutil.copy(folder / "a.jsonl", folder / "b.jsonl")  # copies are read once
    assert len(chosen_of(folder, tokenizer, 64).by_length[64]) == 5


GOOD = b'{"text": "The night train."}\n'


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", GOOD + b"\n{night\n" + GOOD, "a.jsonl, line 3 is not JSON ("),
        (
            "a.jsonl",
            GOOD + b'{"text": "caf\xe9"}\n',
            "a.jsonl, line 2 is not UTF-8 (invalid",
        ),
        ("a.jsonl", GOOD + b'{"text": "night', "a.jsonl is truncated: it ends within a line"),
        (
            "a.jsonl",
            GOOD + b'{"body": "x"}\n',
            "a.jsonl: record 2 has no text in 'text'; its fields are body (text)",
        ),
        ("a.jsonl", b"", "a.jsonl: it is empty; give others by documents=PATH"),
        ("a.txt", b"one\ncaf\xe9 two\n", "a.txt, line 2 is not UTF-8"),
        ("a.txt", b"", "a.txt: it is empty"),
        ("a.md", b"one\ncaf\xe9 two\n", "a.md, line 2 is not UTF-8"),
        ("a.md", b"", "a.md: it is empty"),
        ("a.jsonl.zst", zstandard.compress(GOOD * 99)[:-4], "a.jsonl.zst is truncated: its last compressed frame"),
        ("a.jsonl", None, "a.jsonl is absent: give a text file, JSON lines, a table, or a folder of such"),
    ],
    ids=itertools.count(),
)
def test_damaged_documents_are_one_line(
    sample: Path, tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    tokenizer = Tokenizer.from_file(str(sample / "tokenizer.json"))
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises((EvaluateError, DataError)) as caught:
        choose(texts_of(tmp_path / name, "text"), tokenizer, 0, [4], 9, pack=False, same=False)
    message = str(caught.value)
    assert said in message and str(tmp_path) in message and "\n" not in message


def test_pythons_own_texts_need_no_run(sample: Path) -> None:
    read: Iterator[tuple[str, Any]] = python_texts().read()
    source, pieces = next(read)
    assert source == "language reference" and sum(len(piece.text) for piece in pieces) > 40_000


def test_one_pass_without_yarn_gives_all_lengths_and_sums_fall_into_their_ranges(tmp_path: Path) -> None:
    own, reader = documents(16, 16, 9), Counting()
    by_length = {8: own, 16: own[:2]}
    variants = [Variant(8), Variant(16), Variant(16, 2.0)]
    found = measure(reader, by_length, variants, Rows(tmp_path), silent)
    assert reader.passes == [(16, None), (16, 2.0), (16, None), (16, 2.0), (8, None)]
    assert found[Variant(8)][0]["bins"] == {"0-1": [1.0, 1], "1-2": [2.0, 1], "2-4": [7.0, 2], "4-8": [18.0, 3]}
    assert per_document(found[Variant(8)], (2, 8)) == [5.0, 1005.0, 2005.0]
    table = {(line.variant.name, line.bin): line for line in lines(found)}
    whole = table["16-yarn-2", (0, 16)]
    assert whole.num_documents == 2 and whole.nll.value == pytest.approx((8 + 1008) / 4)
    assert whole.nll.error == pytest.approx(500 / math.sqrt(2) / math.sqrt(2))
    assert whole.minus_plain is not None and whole.minus_plain.value == pytest.approx(-(8 + 1008) / 4)
    assert all(line.nll.value == line.nll.error == 0.0 for line in differences(found, found))


def test_what_is_there_is_not_read_again(tmp_path: Path) -> None:
    own, variants = documents(16, 16, 16), [Variant(8), Variant(16), Variant(16, 2.0)]
    by_length = {8: own, 16: own}
    for name in "ab":
        (tmp_path / name).mkdir()
    with pytest.raises(KeyboardInterrupt):
        measure(Counting(stop_at=3), by_length, variants, Rows(tmp_path / "a"), silent)
    path = tmp_path / "a" / "16-yarn-2.jsonl"
    path.write_bytes(path.read_bytes()[:-9])  # killed within a line
    again = Counting()
    gone_on = measure(again, by_length, variants, Rows(tmp_path / "a"), silent)
    assert again.passes == [(16, 2.0), (16, 2.0), (16, None), (16, 2.0)]
    assert gone_on == measure(Counting(), by_length, variants, Rows(tmp_path / "b"), silent)


def test_two_exports_are_compared_on_the_same_documents(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(folder, tmp_path / "other")
    texts = write_texts(tmp_path / "texts", 4, 9, 9)
    settings = ["length=64,160", "yarn=160:2", f"documents={texts}", "text_key=body"]
    command = ["perplexity", str(folder), str(other), *settings, "--out", str(tmp_path / "results")]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "3 of 64, 2 of 160 (3 were looked at)" in said and "| tokens | 64 | 160 | 160, YaRN 2 |" in said
    out = tmp_path / "results" / "other"
    table = [line.split(",") for line in (out / "perplexity.csv").read_text().splitlines()]
    assert table[0][:6] == ["model", "length", "yarn", "start", "stop", "documents"]
    assert {(row[1], row[2]) for row in table[1:]} == {("64", ""), ("160", ""), ("160", "2.0")}
    against = (out / "perplexity-against-out.csv").read_text().splitlines()
    assert len(against) == len(table) and all(line.endswith(",0.0,0.0") for line in against[1:])
    rows = (out / "perplexity" / "160-yarn-2.jsonl").read_text()
    assert main(command) == 0 and (out / "perplexity" / "160-yarn-2.jsonl").read_text() == rows
    assert main(["perplexity", str(folder), "length=99999", f"documents={texts}", "text_key=body"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: no document of 99,999 tokens or more among the 3 of ")


def test_a_model_that_has_yarn_is_read_with_its_own_alone() -> None:
    config = parse_config([])
    assert [config.factor(length, 8, has_yarn=False) for length in (8, 16)] == [None, 2.0]
    assert [config.factor(length, 8, has_yarn=True) for length in (8, 16)] == [None, None]


def test_rows_of_other_code_are_read_again(tmp_path: Path) -> None:
    (tmp_path / "8.jsonl").write_text('{}\n{"document": "a"}\n{"document": "b", "bins": {}}\n')
    assert list(Rows(tmp_path).read(Variant(8))) == ["b"]


def test_a_loss_that_is_no_number_is_no_perplexity() -> None:
    line = Line(Variant(8), (0, 8), 1, Mean(math.nan, math.nan), None)
    assert "nan (nan)" in markdown([line])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lenght=5"], "there is no SOURCE"),
        (["absent"], "absent is absent: give a Hugging Face folder"),
        (["absent", "lenght=5"], "there is no key lenght; did you mean length?"),
        (["absent", "length=8", "yarn=16:2"], "yarn has a factor for length 16"),
        (["absent", "absent"], "named twice"),
    ],
)
def test_a_mistake_is_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    assert main(["perplexity", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_closed_source_holds_no_weights(folder: Path) -> None:
    opened = Opened(str(folder), None)
    weights = weakref.ref(opened.writer.model)
    opened.close()
    assert weights() is None
