"""A plan from its command line: figures by hand, advice that holds, measured speeds, and no torch."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launch.__main__ import main
from launch.plan.advice import advise
from launch.plan.command import assumption_lines
from launch.plan.disk import disk
from launch.plan.estimate import Cluster, estimate
from launch.plan.measured import Measurement, closest, save
from tests.composing import compose
from tests.launch.launching import ROOT
from train.config import RunConfig
from train.devices import Device, find_device
from train.errors import EXIT_OK, EXIT_USER_ERROR, TrainError

JOB = "experiment=repo-1b-50b"


def device(name: str) -> Device:
    found = find_device(name)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def composed() -> RunConfig:
    return compose(JOB)


@pytest.fixture
def job(composed: RunConfig) -> RunConfig:
    return copy.deepcopy(composed)


def planned(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, Any]:
    """Returns the exit code and the data of `python -m launch plan ... --json`."""
    monkeypatch.setattr(sys, "argv", ["launch", "plan", *arguments, "--json"])
    code = main()
    return code, json.loads(capsys.readouterr().out)


def test_speed_by_hand(job: RunConfig) -> None:
    job.engine.zero_stage = 2
    one = estimate(job, Cluster(device("H200"), 1), mfu=0.4538)
    assert one.tokens_per_second == pytest.approx(48_000, rel=1e-3)  # 9.356 GFLOP a token, 989.5 TFLOP/s
    assert one.days == pytest.approx(50.02e9 / 48_000 / 86400, rel=2e-3) and one.network_seconds == 0
    eight = estimate(job, Cluster(device("H200"), 8), mfu=0.4538)
    assert eight.tokens_per_second / 8 / one.tokens_per_second == pytest.approx(0.925, abs=0.005)
    slow = Cluster(device("H200"), 64, network=40e9)
    assert estimate(job, slow, mfu=0.4538).tokens_per_second / 64 / 48_000 == pytest.approx(0.51, abs=0.01)
    job.model.activation_checkpointing = True
    again = estimate(job, Cluster(device("H200"), 1), mfu=0.4538).compute_seconds / one.compute_seconds
    assert again == pytest.approx(1 + (9.356 - 1.233) / 3 / 9.356, rel=1e-3)


def test_disk_by_hand(job: RunConfig) -> None:
    files = disk(job)
    assert files.data == 205_888_160_000 and files.cache == 0  # 51.47B tokens
    assert files.checkpoints == 4 * 14 * 1_496_496_128
    assert (files.exports, files.conversion) == (4 * 1_496_496_128, 12 * 1_496_496_128)
    job.data.root, job.data.max_cache_gib = "http://olmo-data.org", 10
    assert disk(job).cache == 10 * 2**30
    job.checkpoint.keep_every, job.checkpoint.export_every = 10_000, 20_000
    assert disk(job).checkpoints == (4 + 2) * 14 * 1_496_496_128 and disk(job).exports == 2 * files.exports


def test_present_files_are_counted_by_their_sizes(job: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "files.txt").write_text("a.npy\n")
    (tmp_path / "a.npy").write_bytes(bytes(4096 * 4))
    job.data.root, job.data.file_list = str(tmp_path), str(tmp_path / "files.txt")
    assert disk(job).data == 4096 * 4


def test_what_does_not_fit_gets_settings_that_do(job: RunConfig) -> None:
    job.micro_batch_size = 32
    cluster = Cluster(device("H100"), 8)
    assert not estimate(job, cluster).fits
    advice = advise(job, cluster, mfu=0.45)
    assert advice is not None and advice.estimate.fits
    assert any(argument.startswith("micro_batch_size=") for argument in advice.arguments)
    assert "model.activation_checkpointing=true" not in advice.arguments  # it costs a quarter of the speed
    advised = compose(JOB, *advice.arguments)
    assert estimate(advised, cluster).needed == advice.estimate.needed
    more = advise(job, Cluster(device("L4"), 1), mfu=0.45)
    assert more is not None and more.estimate.cluster.gpus > 1 and more.estimate.fits
    job.model.hidden_size, job.model.num_layers, job.model.intermediate_size = 65536, 400, 262144
    assert advise(job, cluster, mfu=0.45) is None


def test_the_command_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, plan = planned(capsys, monkeypatch, JOB, "--gpus", "8", "--gpu", "a100", "micro_batch_size=64")
    assert code == 1 and plan["fits"] is False and plan["device"] == "A100"
    assert plan["command"].startswith(f"python -m launch {JOB} micro_batch_size=")
    assert plan["command"].endswith("launch.processes=8") and "micro_batch_size=64" not in plan["command"]
    _, arguments = plan["command"].split(" -m launch ")
    code, better = planned(capsys, monkeypatch, *arguments.split(), "--gpu", "a100")
    assert code == EXIT_OK and better["gpus"] == 8 and better["changes"] is None
    monkeypatch.setattr(sys, "argv", ["launch", "plan", JOB, "--gpus", "16"])
    assert main() == EXIT_OK
    text = capsys.readouterr().out
    for word in ("weights", "optimizer", "activations", "tokens/s", "not measured", "checkpoints", "GPU-hours", "fits"):
        assert word in text
    assert text.endswith(f"python -m launch {JOB} launch=slurm launch.nodes=2 launch.gpus_per_node=8\n")


def test_what_is_assumed_without_a_gpu_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch.plan.command.installed_gpus", tuple)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(sys, "argv", ["launch", "plan", "experiment=demo", "data.root=/absent"])
    assert main() == EXIT_OK
    said = capsys.readouterr().out.splitlines()
    assert any(line.startswith("  data            not there yet: /absent") for line in said)
    said = said[1:3]
    assert said == [
        "No GPU is here: this plan assumes 1 x H100; --gpu and --gpus name others.",
        "Started here, the run trains on the CPU, on 2 ranks: memory and speed below are not of that.",
    ]
    cannot = ["engine.precision=bf16"]  # on a CPU
    assert assumption_lines(compose("experiment=demo", *cannot), Cluster(device("H100"), 1)) == said[:1]
    assert planned(capsys, monkeypatch, "experiment=demo")[1]["device_is_assumed"] is True
    assert planned(capsys, monkeypatch, "experiment=demo", "--gpu", "h100")[1]["device_is_assumed"] is False


def test_a_measured_speed_of_the_same_gpu_replaces_the_assumed_one(job: RunConfig, tmp_path: Path) -> None:
    def measurement(parameters: float, mfu: float) -> Measurement:
        return Measurement(1, int(parameters), "repo", 4096, 4, 2, False, 1e5 * mfu, mfu, 60.0, 58.0)

    save(tmp_path / "throughput-h200.json", "NVIDIA H200", "2026-11-21", {}, [measurement(7.4e9, 0.5)])
    save(tmp_path / "throughput-h100.json", "NVIDIA H100 80GB HBM3", "2026-11-21", {}, [measurement(1.5e9, 0.2)])
    save(tmp_path / "throughput-h200-1b.json", "NVIDIA H200", "2026-11-21", {}, [measurement(1.4e9, 0.4)])
    found = closest(job, device("H200"), tmp_path)
    assert found is not None and found.mfu == 0.4 and "peak 60.0 GiB where 58.0 were planned" in found.text
    assert closest(job, device("A100"), tmp_path) is None
    (tmp_path / "throughput-bad.json").write_text('{"device": "NVIDIA H200", "steps": [{"gpu": 1}]}')
    with pytest.raises(TrainError, match=r"a step has '.*' too much or not at all"):
        closest(job, device("H200"), tmp_path)


def test_a_batch_that_cannot_be_split_names_a_number_that_works(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["launch", "plan", JOB, "--gpus", "7"])
    assert main() == EXIT_USER_ERROR
    assert capsys.readouterr().err == (
        "error: --gpus 7: global_batch_size=512 cannot be split over them; use --gpus 4, or a global_batch_size that "
        "is a multiple of 7\n"
    )


def test_a_plan_needs_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['launch', 'plan', 'experiment=demo']\n"
        "from launch.__main__ import main\n"
        "assert main() == 0 and not {'torch', 'deepspeed', 'datasets', 'plotly'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
