"""Which tokenizer a run has: that of its data, or of what it began from, and whether the two agree; and its card."""

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, trainers

from tests.train.conftest import Runs
from tests.train.tiny import tiny, write_tokenizer
from train.checkpoint.checkpoints import Checkpoints
from train.checkpoint.resume import Start
from train.checkpoint.store import Layout
from train.distributed import Ranks
from train.engine.config import Precision
from train.huggingface.companions import companion_files, find_tokenizer, other_tokenizer
from train.run_folder import RunFolder


@pytest.mark.parametrize("place", ["hf", "", "checkpoints/step-0000001"])
def test_the_tokenizer_of_what_a_run_began_from_is_found(exports: Runs, runs_root: Path, place: str) -> None:
    config = tiny(runs_root, init_from=str(exports.folder("exported").path / place))
    assert find_tokenizer(config).read_bytes() == (runs_root / "tokenizer.json").read_bytes()


def test_the_tokenizer_of_a_model_of_the_hub_is_beside_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("checkpoints/hub/a--b@main")
    folder.mkdir(parents=True)
    written = write_tokenizer(folder / "tokenizer.json")
    assert find_tokenizer(tiny(tmp_path, init_from="hf://a/b@main")) == written


def test_a_run_that_begins_with_other_ids_says_so(
    exports: Runs, runs_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Tokenizer(models.BPE(unk_token="?"))
    special = ["<|endoftext|>", "?"]
    other.train_from_iterator(["zyxw vuts rqpo"], trainers.BpeTrainer(vocab_size=30, special_tokens=special))
    other.save(str(tmp_path / "other.json"))
    began: dict[str, Any] = {"init_from": str(exports.folder("exported").hf)}
    config = tiny(runs_root, name="other", data__tokenizer=str(tmp_path / "other.json"), **began)
    layout = Layout.of(config, 1, Precision.fp32)
    assert (config.positions.start_layer, Ranks().world_size) == (1, 1)
    Checkpoints(config, Ranks(), RunFolder.of(config), layout).initial_weights(Start(import_from=config.init_from))
    [said] = capsys.readouterr().out.splitlines()
    assert said.startswith(f"WARNING: data.tokenizer {tmp_path}/other.json has other tokens than {config.init_from}/")
    assert " of 128 ids differ, and the loss will be far too high" in said
    same = tiny(runs_root, data__tokenizer=str(runs_root / "tokenizer.json"), **began)
    assert other_tokenizer(same) is None and other_tokenizer(tiny(runs_root, **began)) is None


def test_the_card_has_the_statistics_of_the_last_reading_and_no_other_figure(tmp_path: Path) -> None:
    config = tiny(tmp_path)
    folder = RunFolder.of(config)
    folder.path.mkdir(parents=True)
    reading = {"positions/std": 0.25, "positions/range": 7.0, "positions/layer_01/std": [1.0]}
    folder.log_metrics({"step": 1, "positions/std": 0.5})
    folder.log_metrics({"step": 2, **reading, "positions/open_alerts": 2, "positions/of_mine": 3.0})
    folder.log_metrics({"step": 3, "train/ce_loss": 2.0})
    card = companion_files(config, 3)[0]["README.md"].decode()
    assert "| std | 0.25 |" in card and "| range | 7 |" in card
    assert "| 0.5 |" not in card and "open_alerts" not in card and "of_mine" not in card
