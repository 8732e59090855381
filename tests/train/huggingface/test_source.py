"""`init_from` and imports take weights from folders, runs, checkpoints and the hub, and check what is said of them."""

import json
import shlex
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file, save_file
from transformers import Olmo2Config, Olmo2ForCausalLM

from common.errors import UserError
from data.fetch import retry
from model.__main__ import main
from model.config import NormPrecision, PositionPrecision, PositionsConfig, YarnConfig
from model.export import save_hf
from model.huggingface.flavours import Flavour
from model.weights import hf_weights
from tests.data.fetch.server import Handler, reset_after, serving, status
from tests.model.small import REPO, built, small
from tests.ports import refusing_port
from tests.train.conftest import Runs
from train.checkpoint.masters import read_masters
from train.checkpoint.store import read_checkpoint
from train.compose.app import CONFIG_FOLDER, to_run_config
from train.distributed import Ranks
from train.errors import TrainError
from train.huggingface.fetching import fetch_on_main
from train.huggingface.generating import open_writer
from train.huggingface.imports import import_weights
from train.huggingface.source import check_reachable, check_source, fetch_source, open_source
from train.run_folder import RunFolder
from train.watchdog import Watchdog
from train.watchdog_config import WatchdogConfig


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return {key: value for file in folder.glob("*.safetensors") for key, value in load_file(file).items()}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].dtype == value.dtype and torch.equal(found[key], value), key


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_kv_heads", [4, 2])
def test_olmo2_comes_back_bit_for_bit(tmp_path: Path, num_kv_heads: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    described = Olmo2Config(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=112,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=num_kv_heads,
        pad_token_id=None,
        eos_token_id=1,
    )
    fresh: Any = Olmo2ForCausalLM(described)
    fresh.to(dtype).save_pretrained(tmp_path / "theirs", max_shard_size="40KB")
    found = import_weights(str(tmp_path / "theirs"), tmp_path / "ours")
    assert (found.flavour, found.dtype, found.positions) == (Flavour.olmo2, dtype, PositionsConfig("rope"))
    assert_same(stored(tmp_path / "ours"), stored(tmp_path / "theirs"))
    tokens = torch.randint(96, (1, 9))
    theirs, again = (Olmo2ForCausalLM.from_pretrained(tmp_path / name) for name in ("theirs", "ours"))
    assert torch.equal(again(tokens).logits, theirs(tokens).logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("spellings", [("dynmaic_pe",), ("dynamic_pe",), ("dynmaic_pe", "dynamic_pe")])
def test_published_weights_come_back_bit_for_bit_in_every_spelling(
    tmp_path: Path, spellings: tuple[str, ...], dtype: torch.dtype
) -> None:
    published = written(tmp_path / "published", dtype=dtype, flavour=Flavour.published)
    saved = json.loads((published / "config.json").read_text())
    del saved["layer_positions"]  # ours; the published files have none
    kept = {key: value for key, value in saved["pe_config"].items() if key.startswith((*spellings, "dynamic_pe_mode"))}
    (published / "config.json").write_text(json.dumps(saved | {"pe_config": kept}))
    found = import_weights(str(published), tmp_path / "ours")
    assert (found.flavour, found.positions) == (Flavour.auto, PositionsConfig("repo"))
    assert "positions.scheme=repo positions.start_layer=null" in found.overrides()
    assert_same(stored(tmp_path / "ours"), stored(published))
    import_weights(str(tmp_path / "ours"), tmp_path / "again")
    assert_same(stored(tmp_path / "again"), stored(published))


def written(folder: Path, max_shard_bytes: int = 10**9, **settings: Any) -> Path:
    save_hf(folder, small(), REPO, built(small(), REPO).named_parameters(), max_shard_bytes, **settings)
    return folder


def rewritten(**changes: Any) -> Callable[[Path], object]:
    def rewrite(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return rewrite


def cut(folder: Path) -> None:
    file = next(folder.glob("*-00002-*"))
    file.write_bytes(file.read_bytes()[:-100])


def without_a_tensor(folder: Path) -> None:
    file = next(folder.glob("*-00002-*"))
    tensors = load_file(file)
    key = sorted(tensors)[0]
    tensors["model.surplus"] = tensors.pop(key)
    save_file(tensors, file)


def with_a_number(value: torch.Tensor) -> Callable[[Path], object]:
    def replace(folder: Path) -> None:
        for file in folder.glob("*.safetensors"):
            tensors = load_file(file)
            if "model.norm.weight" in tensors:
                save_file(tensors | {"model.norm.weight": value}, file)

    return replace


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (with_a_number(torch.full((64,), torch.nan)), "model.norm.weight has values that are not finite"),
        (with_a_number(torch.ones(64, dtype=torch.int64)), "model.norm.weight is int64; floats were expected"),
        (rewritten(max_position_embeddings="long"), "max_position_embeddings is 'long'; it must be 1 or more"),
        (cut, "-00002-of-"),
        (lambda folder: next(folder.glob("*-00002-*")).unlink(), "is named by the index but absent"),
        (without_a_tensor, "1 unexpected keys (model.surplus)"),
        (rewritten(vocab_size=97), "lm_head.weight is [96, 64] and not [97, 64]"),
        (rewritten(num_key_value_heads=2), "k_proj.weight is [64, 64] and not [32, 64]"),
        (rewritten(pe_config={"dynamic_pe_mode": "cope"}), "of its modes there are here"),
        (rewritten(layer_positions=["rope", "nope", "repo"]), "but the tensors have position maps in layers 1-2"),
        (rewritten(layer_positions=["rope", "repo"]), "it must list 3 schemes"),
        (rewritten(model_type="llama"), 'config.json has model_type "llama" and not "olmo2"'),
    ],
)
def test_bad_files_are_refused_in_one_line_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], object], said: str
) -> None:
    folder = written(tmp_path / "source", max_shard_bytes=40_000)
    damage(folder)
    assert main(["import", str(folder), str(tmp_path / "ours")]) == 2
    *progress, error = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ") and said in error and all(line.endswith(" parameters") for line in progress)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_the_command_says_what_to_type_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = written(tmp_path / "source", dtype=torch.bfloat16)
    assert main(["import", str(folder), str(tmp_path / "ours")]) == 0
    said = capsys.readouterr()
    assert f"{folder} is imported to {tmp_path / 'ours'}: flavour auto, bfloat16\n" in said.out
    assert f"init_from={tmp_path / 'ours'} positions.scheme=repo positions.start_layer=null\n" in said.out
    assert said.err.splitlines()[-1] == "42/42 parameters"


def test_what_is_not_the_default_is_said_to_be_typed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    positions = PositionsConfig("repo", hidden_divisor=16, precision=PositionPrecision.reference, yarn=YarnConfig(2.0))
    config = small(other_eos_token_ids=[2, 5], norm_precision=NormPrecision.reference)
    save_hf(tmp_path / "source", config, positions, built(config, positions).named_parameters())
    found = import_weights(str(tmp_path / "source"), tmp_path / "ours")
    assert (found.config.eos_token_ids, found.positions) == ([1, 2, 5], positions)
    root = tmp_path / "configs"
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        arguments = ["model=tiny", "name=x", f"run_root={root}", *shlex.split(found.overrides())]
        composed = to_run_config(compose("config", ["experiment=repo-1b-50b", *arguments]))
    assert composed.positions == positions
    assert composed.model.other_eos_token_ids == [2, 5]
    assert composed.model.norm_precision is NormPrecision.reference
    with caplog.at_level("INFO"):
        hf_weights(tmp_path / "ours", replace(config, other_eos_token_ids=[5]), positions, 0, is_conversion=True)
    assert "texts also end with 2: set model.other_eos_token_ids=[5,2] to keep this" in caplog.text


def test_a_run_begins_from_a_checkpoint_of_another(exports: Runs) -> None:
    checkpoint = read_checkpoint(exports.folder("exported").checkpoints / "step-0000001")
    masters, run = read_masters(checkpoint), exports.folder("earlier")
    weights = open_source(run.path).read  # its rate is zero: what it exports is what it started from
    assert torch.equal(weights("lm_head.weight"), masters["lm_head.weight"]())
    assert weights("model.layers.1.self_attn.gate_map.weight").abs().max() > 0


def test_a_run_is_its_newest_checkpoint_where_that_is_not_exported(stages: Runs) -> None:
    run = stages.folder("zero3-bf16")
    source = open_source(run.path)
    assert source.place == str(run.checkpoints / "step-0000008") and not run.hf.exists()
    assert torch.equal(
        source.read("model.norm.weight"), read_masters(read_checkpoint(Path(source.place)))["norm.weight"]()
    )


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("absent", "absent is absent: give"),
        ("runs/absent", "runs/absent is absent: train that run first, or give a Hugging Face folder"),
        ("other", "holds neither a config"),
        ("runs/young", "runs/young is a run that has saved no checkpoint yet: let it train until it saves one"),
    ],
)
def test_what_holds_no_weights_is_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("other", "runs/young"):
        Path(folder).mkdir(parents=True)
    Path("runs/young/events.jsonl").touch()
    with pytest.raises(TrainError, match=said):
        check_source(source)


def test_what_lies_beside_weights_says_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("runs/demo/checkpoints/step-0000002", "runs/demo/checkpoints/step-0000010", "evaluations/demo-hf"):
        Path(folder).mkdir(parents=True)
    Path("evaluations/demo-step-0000010").mkdir()
    newest = "runs/demo/checkpoints/step-0000010 for the newest, or the run, runs/demo"
    sources = {"runs/demo/checkpoints": newest, "evaluations/demo-hf": "the run, runs/demo"}
    for source, said in (sources | {"evaluations/demo-step-0000010": "the run, runs/demo"}).items():
        with pytest.raises(TrainError, match=f"is no run that has saved one: give {said}$"):
            check_source(source)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A hub with one model, whose files break off at first."""
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.001)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with serving(written(tmp_path / "served", max_shard_bytes=40_000)) as server:
        template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(retry, "FIRST_PAUSE", 0.001)
        yield server
        for thread in threading.enumerate():  # downloads beside one that has failed
            if thread.name == "one of many":
                thread.join(600)


@pytest.mark.parametrize("source", ["hf://a/b@main", "a/b@main"])
def test_a_model_of_the_hub_is_fetched_once_whatever_breaks(hub: Any, tmp_path: Path, source: str) -> None:
    hub.faults = {path.name: [reset_after(2000)] for path in (tmp_path / "served").glob("*.safetensors")}
    check_source(source)
    folder = fetch_source(source)
    assert folder == Path("checkpoints/hub/a--b@main") and not any(hub.faults.values())
    weights = hf_weights(folder, small(), REPO, seed=9)
    assert all(torch.equal(weights(name), value) for name, value in built(small(), REPO).named_parameters())
    hub.seen.clear()
    assert fetch_source(source) == folder and hub.seen == []


def test_a_long_download_is_no_hang_as_long_as_bytes_arrive(
    hub: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    now, limits = [0.0], WatchdogConfig(step_seconds=60, other_seconds=1500)
    watchdog = Watchdog(limits, Ranks(), RunFolder(tmp_path / "run"), clock=lambda: now[0])
    watchdog.enter("reading or converting weights")
    waited: list[float] = []

    def slowly(handler: Handler, content: bytes, start: int) -> None:
        handler.send(200, b"", {"Content-Length": str(len(content))})
        for at in range(0, len(content), 20_000):
            handler.wfile.write(content[at : at + 20_000])
            now[0] += 1000  # of 1500 seconds
            waited.append(now[0] - watchdog.place.since)
            until(lambda: watchdog.place.since == now[0])

    name = max((tmp_path / "served").glob("*.safetensors"), key=lambda path: path.stat().st_size).name
    hub.faults = {name: [slowly]}
    fetch_on_main("hf://a/b@main", Ranks(), watchdog.go_on, seconds=0.01)
    assert len(waited) >= 2 and now[0] > 1500 and max(waited) < 1500
    assert "fetched 50 %, 0.00 GB to go\n" in capsys.readouterr().out
    assert watchdog.place.what == "reading or converting weights" and watchdog.place.limit == 1500


def until(is_true: Callable[[], bool]) -> None:
    for _ in range(6000):
        if is_true():
            return
        time.sleep(0.01)
    raise AssertionError("waited in vain")


def test_a_failed_download_is_an_error_on_the_waiting_rank(hub: Any, tmp_path: Path) -> None:
    hub.faults = {"config.json": [status(404)] * 9}
    with pytest.raises(UserError, match=r"config\.json"):
        fetch_on_main("hf://a/b@main", Ranks(), lambda: None)


def test_a_model_that_the_hub_does_not_have_is_an_error(hub: Any, tmp_path: Path) -> None:
    for path in (tmp_path / "served").glob("*.safetensors"):
        path.unlink()
    with pytest.raises(UserError, match="safetensors"):
        fetch_source("hf://a/b@main")


def test_a_hub_without_a_way_to_it_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.001)
    said = r"^the hub cannot be reached \(.*so no/such cannot be fetched: check the n"
    with refusing_port() as port:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{port}")
        with pytest.raises(UserError, match=said):
            open_writer("hf://no/such", None)
        with pytest.raises(UserError, match=said):
            import_weights("no/such@main", tmp_path / "out")
    assert not caplog.records  # of another try


def test_what_is_listed_already_needs_no_way_to_the_hub(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    check_reachable("hf://a/b@main")
    fetch_source("hf://a/b@main")
    with refusing_port() as port:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{port}")
        check_reachable("hf://a/b@main")
