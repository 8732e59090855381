"""`python -m model generate` writes text from a run or a folder, and shows where its tokens stand."""

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from evaluate.__main__ import main as evaluate
from model.__main__ import main
from model.config import PositionsConfig
from model.export import save_hf
from model.generate import next_tokens
from tests.model.small import REPO, ROPE, built, small
from tests.train.conftest import Runs
from tests.train.tiny import VOCAB_SIZE
from train.huggingface.generating import open_writer, show_positions


def test_a_run_and_its_export_write_the_same_text(
    exports: Runs, runs_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = exports.folder("exported")
    said = []
    for source in (run.path, run.hf, run.checkpoints / "step-0000002"):
        arguments = ["--max-tokens", "12", "--tokenizer", str(runs_root / "tokenizer.json")]
        assert main(["generate", str(source), "the table", *arguments]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] == said[2] and said[0].startswith("the table") and len(said[0]) > len("the table\n")


def test_a_text_ends_at_any_token_that_ends_texts(exports: Runs, runs_root: Path) -> None:
    writer = open_writer(str(exports.folder("exported").hf), runs_root / "tokenizer.json")
    last = torch.tensor(writer.encode("the table"))
    first = int(writer.model(last[None])[0, -1].argmax())
    for ends, num_pieces in (([0], 1), ([0, first], 0), ([first, 0], 0)):
        assert len(list(replace(writer, eos_token_ids=ends).stream("the table", 1, 0.0, 0))) == num_pieces


@pytest.mark.parametrize("positions", [ROPE, REPO])
def test_transformers_and_generate_stop_at_every_token_that_ends_texts(
    runs_root: Path, tmp_path: Path, positions: PositionsConfig
) -> None:
    tokenizer, plain = runs_root / "tokenizer.json", small(vocab_size=VOCAB_SIZE)
    weights = dict(built(plain, positions).named_parameters())
    save_hf(tmp_path / "plain", plain, positions, weights.items())
    writer = open_writer(str(tmp_path / "plain"), tokenizer)
    prompt = torch.tensor([writer.encode("the table")])
    free = next_tokens(writer.model, prompt[0], temperature=0.0, generator=torch.Generator())
    text = list(islice(free, 12))
    others = [token for token in range(3, VOCAB_SIZE) if token not in text]
    for number, first in enumerate(list(dict.fromkeys(text))[:3]):
        ends = ([first, *others[:2]], [others[0], first, others[1]], [*others[:2], first])[number]
        config = replace(plain, eos_token_id=ends[0], other_eos_token_ids=ends[1:])
        folder = tmp_path / str(number)
        save_hf(folder, config, positions, weights.items())
        theirs: Any = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
        found = theirs.generate(prompt, max_new_tokens=12, do_sample=False)[0, prompt.shape[1] :].tolist()
        assert found == text[: text.index(first) + 1]
        ours = "".join(open_writer(str(folder), tokenizer).stream("the table", 12, 0.0, 0))
        assert ours == writer.tokenizer.decode(found[:-1])


def test_a_run_and_its_export_are_probed_alike(
    exports: Runs, runs_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, found = exports.folder("exported"), []
    settings = ["task=copy", "length=64", "num_samples=2", "--tokenizer", str(runs_root / "tokenizer.json")]
    for source in (run.hf, run.checkpoints / "step-0000002"):
        assert evaluate(["probe", str(source), *settings, "--out", str(tmp_path / source.name)]) == 0
        found.append((tmp_path / source.name / "copy-64.jsonl").read_text())
    assert found[0] == found[1] and found[0].count("\n") == 2
    settings[1] = "length=8"
    assert evaluate(["probe", str(run.path), *settings]) == 2
    assert "length=8: copy takes" in capsys.readouterr().err


def test_positions_are_printed_for_every_head(
    exports: Runs, runs_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = ["--tokenizer", str(runs_root / "tokenizer.json"), "--max-tokens", "1", "--show-positions"]
    run = str(exports.folder("imported").path)
    assert main(["generate", run, "ab", *tokenizer, "--layer", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines if line.startswith("layer")] == [
        "layer 1 head 0",
        "layer 1 head 1",
    ]
    writer = open_writer(run, runs_root / "tokenizer.json")
    tokens, positions = writer.positions("ab")
    assert f"{tokens[0].strip()}({positions[1][0, 0]:.4g})" in lines[2]
    unpositioned = str(exports.folder("exported").path)
    for arguments, said in (
        ([run, "ab", "--layer", "0"], "--layer 0 learns no positions; layers that do: 1"),
        ([unpositioned, "ab"], "no layer of this model learns positions"),
    ):
        assert main(["generate", *arguments, *tokenizer]) == 2
        output = capsys.readouterr()
        assert said in output.err and not output.out  # before a token is written


def test_a_terminal_gets_colours_from_the_smallest_position_to_the_largest() -> None:
    console = Console(force_terminal=True, color_system="truecolor", width=80, record=True)
    show_positions(["a", "b", "c"], torch.tensor([[0.0], [1.0], [0.5]]), 3, console)
    coloured = console.export_text(styles=True)
    assert "\x1b[38;2;60;110;255ma" in coloured and "\x1b[38;2;255;80;60mb" in coloured


def test_a_tokenizer_with_more_tokens_than_the_model_is_one_line(
    exports: Runs, runs_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = Tokenizer.from_file(str(runs_root / "tokenizer.json"))
    tokenizer.add_tokens([f"word{number}" for number in range(5000)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    source = str(exports.folder("exported").hf)
    assert main(["generate", source, "word4999", "--tokenizer", str(tmp_path / "tokenizer.json")]) == 2
    error = capsys.readouterr().err
    assert "tokenizer.json has ids up to" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--temperature", "-1"], "--temperature must be 0 or more"),
        ([], "absent is absent: give a Hugging Face folder"),
    ],
)
def test_a_mistake_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(["generate", str(tmp_path / "absent"), "text", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
