"""Scores in batches: those of one sample at a time, exact where generation is right, and with YaRN where asked."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from evaluate.replicate.config import ReplicateConfig, read_config
from evaluate.replicate.corpus import write_tokenizer
from evaluate.replicate.score import probe_samples, read_scores, score, score_run
from evaluate.subject import ModelSubject
from model.config import ModelConfig, PositionsConfig, YarnConfig
from model.export import save_hf
from model.transformer import Olmo2
from model.weights import initialise
from tests.model.small import built, small

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config() -> ReplicateConfig:
    return read_config(["size=tiny", "probes.num_samples=9"])


@pytest.fixture(scope="module")
def place(config: ReplicateConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("score")
    write_tokenizer(config.corpus, folder / "tokenizer.json")
    sizes, positions = model_config(config), PositionsConfig("residual")
    save_hf(folder / "hf", sizes, positions, built(sizes, positions).named_parameters())
    return folder


def model_config(config: ReplicateConfig) -> ModelConfig:
    return small(vocab_size=config.corpus.vocab_size, eos_token_id=0)


def test_batches_give_the_figures_of_single_samples(config: ReplicateConfig, place: Path) -> None:
    tokenizer = Tokenizer.from_file(str(place / "tokenizer.json"))
    model = built(model_config(config), PositionsConfig("residual"))
    subject = ModelSubject(model, tokenizer, CPU, eos_token_ids=[])
    samples = probe_samples(config, tokenizer, 32)["reverse"]
    found = score(model, samples, 70, CPU)  # two samples at a time
    assert [len(values) for values in found.values()] == [9, 9, 9]
    for index, sample in enumerate(samples):
        nll = subject.nll(sample.prompt, sample.answer) / len(sample.answer)
        assert found["nll"][index] == pytest.approx(nll, rel=1e-4)
        is_right = subject.continued(sample.prompt, len(sample.answer)) == sample.answer
        assert found["exact"][index] == is_right
        logits = model(torch.tensor([sample.prompt + sample.answer]))[0, len(sample.prompt) - 1 : -1]
        share = (logits.argmax(-1) == torch.tensor(sample.answer)).float().mean()
        assert found["accuracy"][index] == pytest.approx(float(share))


def test_a_model_that_is_right_is_exact(config: ReplicateConfig, place: Path) -> None:
    """One that is told the answer: its own most likely tokens."""
    tokenizer = Tokenizer.from_file(str(place / "tokenizer.json"))
    model = built(model_config(config), PositionsConfig("rope"))
    subject = ModelSubject(model, tokenizer, CPU, eos_token_ids=[])
    sample = probe_samples(config, tokenizer, 32)["reverse"][0]
    told = type(sample)(sample.sample, sample.prompt, subject.continued(sample.prompt, 5), 5, sample.size)
    wrong = type(sample)(sample.sample, sample.prompt, [*told.answer[:4], (told.answer[4] + 1) % 60], 5, sample.size)
    found = score(model, [told, wrong], 1000, CPU)
    assert found["exact"] == [1, 0] and found["accuracy"] == [1, pytest.approx(0.8)]


def test_a_run_is_scored_once_with_yarn_where_it_is_asked(config: ReplicateConfig, place: Path) -> None:
    path = place / "scores" / "run.json"
    score_run(place / "hf", config, place / "tokenizer.json", path)
    scores, written = read_scores(path), path.stat().st_mtime_ns
    assert scores.keys() == {"reverse-32", "reverse-40"}
    score_run(place / "hf", config, place / "tokenizer.json", path)
    assert path.stat().st_mtime_ns == written
    tokenizer = Tokenizer.from_file(str(place / "tokenizer.json"))
    sizes = model_config(config)
    for length, yarn in ((32, None), (40, YarnConfig(factor=2.0, original_max_position=32))):
        model = Olmo2(sizes, PositionsConfig("residual", yarn=yarn))
        parameters = dict(built(sizes, PositionsConfig("residual")).named_parameters())
        initialise(model, parameters.__getitem__, "cpu")
        expected = score(model, probe_samples(config, tokenizer, length)["reverse"], 10_000, CPU)
        assert scores[f"reverse-{length}"]["nll"] == pytest.approx(expected["nll"], rel=1e-4)
    more = read_config(["size=tiny", "probes.num_samples=3"])
    score_run(place / "hf", more, place / "tokenizer.json", path)
    assert len(json.loads(path.read_text())["scores"]["reverse-32"]["nll"]) == 3
