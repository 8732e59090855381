"""The probe texts: what a model makes of them is kept, and leaves training as it was."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from model.config import PositionsConfig
from model.transformer import Olmo2
from model.weights import initialise, random_weights
from report.probes import probe_files, read_probes
from tests.train.conftest import NUM_STEPS, RESUMED, STOP_STEP, Runs
from tests.train.probe import metrics
from tests.train.tiny import LENGTH, VOCAB_SIZE, tiny, write_tokenizer, write_tokens
from train.callbacks.callback import TrainerInterface
from train.callbacks.position_probes import PositionProbes, find_encoder, read_texts
from train.config import RunConfig
from train.errors import Stop, StopReason, TrainError
from train.run_folder import RunFolder
from train.watch.alert import Alert
from train.watch.probe_texts import PROBE_TEXTS


@pytest.mark.parametrize("name", RESUMED)
def test_probing_changes_no_loss_and_no_random_number(stages: Runs, name: str) -> None:
    undisturbed, probed = stages.folder(name), stages.folder(f"{name}-stopped")
    assert not probe_files(undisturbed.probes)
    assert list(probe_files(probed.probes)) == [0, 2, STOP_STEP, 4, 6, NUM_STEPS]
    assert metrics(stages.root, name) == metrics(stages.root, f"{name}-stopped")
    names = (name, f"{name}-stopped", f"{name}-stopped/again")
    for alone, stopped, again in zip(*(stages.outcomes[run] for run in names), strict=True):
        assert alone.draws[:STOP_STEP] == stopped.draws
        assert len(again.draws) == NUM_STEPS - STOP_STEP


@pytest.mark.parametrize("name", ["zero2-fp32", "zero3-fp32"])
def test_the_first_positions_are_those_of_the_fresh_model_on_each_text_alone(stages: Runs, name: str) -> None:
    config = tiny(Path(), position_watch__probe_tokenizer=str(stages.root / "tokenizer.json"))
    config.data.root = str(stages.root)
    model = Olmo2(config.model, config.positions, config.loss.z_loss_weight)
    initialise(model, random_weights(config.model, config.positions, config.seed), "cpu")
    expected: list[np.ndarray] = []
    for _, module in model.learned_positions():
        module.register_forward_hook(lambda _, __, z: expected.append(z.detach()[0].T.numpy()))
    probes = read_probes(0, stages.folder(f"{name}-stopped").probe(0))
    encoder = find_encoder(config)
    assert probes is not None and encoder is not None and probes.layers == [1]
    texts = read_texts(encoder, LENGTH)
    assert [text.name for text in texts] == list(PROBE_TEXTS) == list(probes.z)
    for text in texts:
        expected.clear()
        model(torch.from_numpy(text.tokens)[None])
        assert probes.z[text.name] == pytest.approx(np.stack(expected), abs=1e-6)
        assert probes.pieces[text.name] == text.pieces and PROBE_TEXTS[text.name].startswith("".join(text.pieces))


def test_positions_move_as_the_model_learns(stages: Runs) -> None:
    folder = stages.folder("zero2-fp32-stopped")
    first, last = (read_probes(step, folder.probe(step)) for step in (0, NUM_STEPS))
    assert first is not None and last is not None
    assert all(not np.array_equal(first.z[name], last.z[name]) for name in PROBE_TEXTS)


def probing(config: RunConfig) -> PositionProbes:
    """The callback as `build_callbacks` makes it."""
    return PositionProbes(config.position_watch.probe_interval, config.sequence_length, partial(find_encoder, config))


def stand_in(config: RunConfig, *, is_main: bool) -> TrainerInterface:
    """The parts of a trainer that a start reads."""
    with torch.device("meta"):
        engine = SimpleNamespace(model=Olmo2(config.model, config.positions))
    trainer: Any = SimpleNamespace(
        engine=engine, ranks=SimpleNamespace(is_main=is_main), step=0, config=config, max_steps=config.max_steps
    )
    return cast(TrainerInterface, trainer)


def test_a_run_without_a_tokenizer_says_so_once_and_probes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny(Path(), max_steps=0)
    for is_main in (True, False):
        probes = probing(config)
        trainer = stand_in(config, is_main=is_main)
        probes.on_start(trainer)
        probes.on_step_end(trainer)  # would need an engine
    said = capsys.readouterr().out
    assert said.startswith("tiny: no tokenizer is known") and said.count("\n") == 1


def test_an_alert_and_a_stop_are_probed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    told: list[str] = []
    trainer: Any = stand_in(tiny(Path()), is_main=False)
    trainer.engine.forward_only = lambda _: looks.append(trainer.step)
    trainer.folder, trainer.probed = RunFolder(Path()), lambda path: told.append(path.stem)
    probes = probing(tiny(Path(), max_steps=100, position_watch__probe_interval=50))
    monkeypatch.setattr(probes, "_texts", [None])
    for trainer.step in (1, 2, 3):
        if trainer.step == 2:
            probes.on_alert(trainer, Alert("alert", "collapse", "model", 1, ""))
        probes.on_step_end(trainer)
    probes.on_stop(trainer, Stop(StopReason.signal, "SIGTERM"))
    probes.on_stop(trainer, Stop(StopReason.signal, "SIGTERM"))
    assert looks == [2, 3] and told == ["step-0000002", "step-0000003"]


def test_a_run_without_learned_positions_has_nothing_to_probe(capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny(Path(), positions=PositionsConfig(scheme="rope"))
    probing(config).on_start(stand_in(config, is_main=True))
    assert capsys.readouterr().out == ""


def test_the_tokenizer_beside_the_backbone_is_used_for_token_files(tmp_path: Path) -> None:
    write_tokens(tmp_path / "tokens")
    write_tokenizer(tmp_path / "tokenizer.json")
    encoder = find_encoder(tiny(tmp_path, init_from=str(tmp_path)))
    assert encoder is not None and encoder.max_token_id < VOCAB_SIZE
    assert find_encoder(tiny(tmp_path, init_from=str(tmp_path / "tokens"))) is None


def test_a_tokenizer_that_is_not_the_models_is_refused(tmp_path: Path) -> None:
    config = tiny(tmp_path, position_watch__probe_tokenizer=str(write_tokenizer(tmp_path / "other.json")))
    write_tokens(tmp_path / "tokens")
    config.model.vocab_size = VOCAB_SIZE - 1
    with pytest.raises(TrainError, match=r"probe_tokenizer.* has ids up to 127, but model.vocab_size=127"):
        find_encoder(config)


def test_a_damaged_file_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "step-0000002.npz"
    path.write_bytes(b"PK\x03\x04 cut")
    (tmp_path / "step-2.npz").touch()
    assert probe_files(tmp_path) == {2: path}
    assert read_probes(2, path) is None
