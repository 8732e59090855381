"""Each check, on real files, servers and settings: it passes where all is well, and names the fix where it is not."""

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from common.errors import UserError
from launch.doctor import machine, worker
from launch.doctor import run as run_checks
from launch.doctor.check import Check, Result, State, Subject, as_data, examine, from_data, passed
from launch.doctor.nodes import merged
from launch.doctor.ranks import judge_all_reduce, judge_clocks
from launch.gpus import installed_gpus
from tests.composing import compose
from train.config import RunConfig
from train.errors import EXIT_OK, EXIT_USER_ERROR

SMI = """#!/bin/sh
echo "NVIDIA H100 80GB HBM3, {driver}, 81559"
echo "NVIDIA H100 80GB HBM3, {driver}, [N/A]"
"""


@pytest.fixture
def config(tmp_path: Path, sample: Path) -> RunConfig:
    small = ["model.vocab_size=512", "wandb.mode=disabled"]
    return compose("experiment=demo-backbone", f"run_root={tmp_path}/runs", f"data.root={sample}", *small)


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Makes nvidia-smi list two H100 with a driver."""

    def install(driver: str) -> None:
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin/nvidia-smi").write_text(SMI.format(driver=driver))
        (tmp_path / "bin/nvidia-smi").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
        installed_gpus.cache_clear()

    yield install
    installed_gpus.cache_clear()


def state_of(check: Check, config: RunConfig) -> tuple[State, Result]:
    [result] = examine([check], Subject(config), lambda name, result: None).values()
    assert bool(result.fix) == (result.state in (State.failed, State.warned)) and "\n" not in result.found + result.fix
    return result.state, result


def test_a_check_that_fails_or_breaks_does_not_stop_the_others(config: RunConfig) -> None:
    def check_user(subject: Subject) -> Result:
        raise UserError("data.root: there is no folder x; correct it")

    def check_disk(subject: Subject) -> Result:
        raise PermissionError(13, "Permission denied", "/x")

    def check_itself(subject: Subject) -> Result:
        raise KeyError("x")

    def check_last(subject: Subject) -> Result:
        return passed("reached")

    seen: list[str] = []
    results = examine(
        [check_user, check_disk, check_itself, check_last], Subject(config), lambda name, result: seen.append(name)
    )
    assert list(results) == seen == ["user", "disk", "itself", "last"]
    assert results["user"] == Result(State.failed, "data.root: there is no folder x", "correct it")
    assert results["disk"].found == "/x: Permission denied" and "KeyError" in results["itself"].found
    assert results["last"].state is State.passed and from_data(as_data(results)) == results


def test_packages_are_held_against_the_pins(config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert state_of(machine.check_packages, config)[0] is State.passed
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    assert state_of(machine.check_packages, config)[0] is State.skipped
    (tmp_path / "constraints.txt").write_text("numpy==0.1\ndeepspeed==0.1\n")

    def with_dependencies(*names: str) -> State:
        (tmp_path / "pyproject.toml").write_text(f"[project]\ndependencies = {json.dumps(names)}\n")
        return state_of(machine.check_packages, config)[0]

    assert with_dependencies("numpy>=2") is State.warned
    assert with_dependencies("deepspeed==0.19.8") is State.failed
    assert with_dependencies("absent-package") is State.failed


def test_gpus_driver_and_memory(config: RunConfig, smi: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    smi("580.65.06")
    monkeypatch.setattr(machine, "torch_cuda", lambda: "13.0")
    assert state_of(machine.check_gpus, config)[0] is State.passed
    assert state_of(machine.check_driver, config)[0] is State.passed
    assert state_of(machine.check_memory, config)[0] is State.passed
    config.launch.processes = 3
    assert state_of(machine.check_gpus, config) == (
        State.failed,
        Result(State.failed, "2, and 3 ranks asked for", "use launch.processes=2"),
    )
    config.launch.processes = None
    config.model.hidden_size, config.model.num_layers = 8192, 80
    assert "launch plan" in state_of(machine.check_memory, config)[1].fix
    smi("550.54.15")
    assert "which needs 580 or newer" in state_of(machine.check_driver, config)[1].found
    monkeypatch.setattr(machine, "torch_cuda", lambda: "12.6")
    assert state_of(machine.check_driver, config)[0] is State.passed
    monkeypatch.setattr(machine, "torch_cuda", lambda: None)
    assert state_of(machine.check_driver, config)[0] is State.failed


def test_the_cuda_version_of_torch_is_read_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    assert machine.torch_cuda() == torch.version.cuda


def test_disks_and_write_access(config: RunConfig, tmp_path: Path) -> None:
    for check in (machine.check_disk_for_the_run, machine.check_disk_for_data, machine.check_write_access):
        assert state_of(check, config)[0] is State.passed
    assert not (tmp_path / "runs").exists()  # nothing is left behind
    config.checkpoint.keep = 10**9
    assert "checkpoint.keep" in state_of(machine.check_disk_for_the_run, config)[1].fix
    (tmp_path / "file").touch()
    config.run_root = f"{tmp_path}/file/runs"
    assert state_of(machine.check_write_access, config)[0] is State.failed
    config.run_root = "/proc/nope"  # no space to free there
    assert state_of(machine.check_disk_for_the_run, config)[0] is State.skipped


def test_published_files_that_are_not_fetched_yet_need_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose("experiment=repo-1b-50b", f"data.root={tmp_path}/absent")
    for free, state in ((206_000_000_000, State.passed), (205_000_000_000, State.failed)):
        monkeypatch.setattr(machine, "_free", lambda path, free=free: free)
        reached, result = state_of(machine.check_disk_for_data, config)
        assert reached is state and "205.9 GB needed to fetch" in result.found


def test_tokenizer_and_first_row(config: RunConfig, tmp_path: Path) -> None:
    config.model.eos_token_id = 0
    encoder_id = state_of(run_checks.check_tokenizer, config)[1].found
    assert "model.eos_token_id=0" in encoder_id or "documents end with 0" in encoder_id
    config.model.vocab_size = 100
    assert "model.vocab_size=100" in state_of(run_checks.check_tokenizer, config)[1].found
    assert state_of(run_checks.check_first_row, config)[0] is State.failed
    config.model.vocab_size = 512
    assert state_of(run_checks.check_first_row, config)[1].found.startswith("256 tokens from ")
    config.data.root = str(tmp_path / "absent")
    for check in (run_checks.check_tokenizer, run_checks.check_first_row):
        assert state_of(check, config)[0] is State.failed


def test_the_state_of_the_run_folder(config: RunConfig, tmp_path: Path) -> None:
    assert "is new" in state_of(run_checks.check_run_folder, config)[1].found
    folder = tmp_path / "runs" / config.name
    folder.mkdir(parents=True)
    rows = [{"step": step, "tokens": step, "train/ce_loss": 1.0} for step in range(1, config.max_steps + 1)]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert state_of(run_checks.check_run_folder, config)[0] is State.warned


def test_weights_of_another_shape_are_named(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from model.export import save_hf
    from model.weights import parameter_shapes, random_weights
    from train.compose.app import save_run_config

    weights = random_weights(config.model, config.positions, 0)
    named = ((name, weights(name)) for name in parameter_shapes(config.model, config.positions))
    save_hf(tmp_path / "hf", config.model, config.positions, named, max_position_embeddings=256)

    def compared(**changes: Any) -> tuple[int, str]:
        config.init_from = str(tmp_path / "hf")
        for key, value in changes.items():
            setattr(config.model, key, value)
        save_run_config(config, tmp_path / "config.yaml")
        monkeypatch.setattr("sys.argv", ["worker", "weights", str(tmp_path / "config.yaml")])
        code = worker.main()
        output = capsys.readouterr()
        return code, output.out + output.err

    code, text = compared()
    assert code == EXIT_OK and "fit" in text
    code, text = compared(intermediate_size=config.model.intermediate_size + 8)
    assert code == EXIT_USER_ERROR and "does not hold the model that is configured" in text
    config.init_from = None
    assert state_of(run_checks.check_weights, config)[0] is State.passed


def test_wandb_needs_a_key_and_a_server(config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert state_of(run_checks.check_wandb, config)[0] is State.skipped
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
    config = compose("experiment=demo", "wandb.mode=online")
    assert state_of(run_checks.check_wandb, config)[0] is State.failed
    (tmp_path / "netrc").write_text("machine 127.0.0.1\n  login user\n  password 0123\n")
    assert state_of(run_checks.check_wandb, config)[0] is State.passed
    server.shutdown()
    server.server_close()
    assert state_of(run_checks.check_wandb, config)[0] is State.warned


def test_what_ranks_report_is_judged() -> None:
    report = {"world_size": 2, "backend": "gloo", "sum_is_right": True, "bytes_per_second": 1e9}
    assert judge_all_reduce({**report, "world_size": 1}, "").state is State.skipped
    assert judge_all_reduce(report, "").state is State.passed
    on_gpus = {**report, "backend": "nccl"}
    assert judge_all_reduce({**on_gpus, "bytes_per_second": 390e9}, "NVIDIA H100").state is State.passed
    assert judge_all_reduce({**on_gpus, "bytes_per_second": 20e9}, "NVIDIA H100").state is State.warned
    assert judge_all_reduce({**on_gpus, "bytes_per_second": 250e9}, "NVIDIA H100", 2).state is State.passed
    assert judge_all_reduce({**report, "sum_is_right": False}, "").state is State.failed
    apart = {"clocks": [("a", 100.0), ("a", 100.0), ("b", 103.5)]}
    assert judge_clocks(apart) == Result(
        State.failed, "2 nodes, at most 3.500 s apart", "start an NTP client (chronyd) on every node"
    )
    assert judge_clocks({"clocks": apart["clocks"][:2]}).state is State.skipped


def test_of_several_nodes_the_worst_counts() -> None:
    def node(*results: Result) -> dict[str, Any]:
        return {"results": as_data({f"check {number}": result for number, result in enumerate(results)})}

    bad = Result(State.failed, "full", "free space")
    together = merged({"n1": node(passed("fine"), passed("fine")), "n2": node(passed("fine"), bad)})
    assert together == {"check 0": passed("2 nodes; fine"), "check 1": Result(State.failed, "n2: full", "free space")}
