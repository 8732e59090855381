"""The manifest of launch=kubernetes is one that the operator's published schema accepts."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from launch.__main__ import launch_sweep
from launch.kubernetes import CONFIG_FILE, manifest, object_name
from tests.composing import compose
from train.compose.app import run_config_of
from train.compose.sweep import compose_members
from train.config import RunConfig
from train.errors import TrainError

NEEDED = (
    "experiment=demo",
    "launch=kubernetes",
    "launch.kubernetes.image=registry/repo-cpt:1",
    "launch.kubernetes.volume_claim=shared",
    "run_root=/shared/runs",
    "data.root=/shared/corpora",
    "init_from=/shared/backbone",
)


def closed(schema: Any) -> Any:
    """Returns a schema that accepts no unknown field: the server would drop it without a word."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    parts = {key: closed(part) for key, part in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        parts["type"] = ["integer", "string"]
    if "properties" in schema and schema.get("type") == "object":
        parts["additionalProperties"] = False
    return parts


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    described = json.loads(Path(__file__).with_name("trainjob-crd.json").read_text())
    found: dict[str, Any] = closed(described["schema"])
    found["properties"]["metadata"] = {"type": "object"}  # every object's, which the server checks
    return found


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return compose(*NEEDED, "launch.nodes=2", "global_batch_size=32")


def test_the_manifest_is_one_that_the_operator_accepts(schema: dict[str, Any], config: RunConfig) -> None:
    asked = replace(config.launch.kubernetes, cpus_per_node=64, memory="900Gi", node_labels=["gpu.product=H100"])
    launches = (config.launch, replace(config.launch, kubernetes=asked), replace(config.launch, gpus_per_node=0))
    for launch in launches:
        launch.validate()
        _, job = yaml.safe_load_all(manifest([replace(config, launch=launch)]))
        Draft202012Validator(schema).validate(job)
    assert job["apiVersion"] == "trainer.kubeflow.org/v1alpha1"
    unknown = {**job, "spec": {**job["spec"], "numNodes": 2}}
    assert not Draft202012Validator(schema).is_valid(unknown)


def test_the_pods_train_what_was_composed_on_the_volume(config: RunConfig) -> None:
    config_map, job = yaml.safe_load_all(manifest([config]))
    assert run_config_of(yaml.safe_load(config_map["data"][CONFIG_FILE]), "here") == config
    trainer, patch = job["spec"]["trainer"], job["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (2, 8)
    assert trainer["resourcesPerNode"]["limits"] == {"nvidia.com/gpu": 8}
    pod = patch["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    assert trainer["args"][-1] == f"{mounts['config']}/{CONFIG_FILE}" and pod["terminationGracePeriodSeconds"] == 600
    assert {volume["name"] for volume in pod["volumes"]} == set(mounts)


def test_a_run_that_would_be_lost_with_its_pod_is_refused(config: RunConfig) -> None:
    with pytest.raises(TrainError, match=r"run_root=runs is not on the volume.*use run_root=/shared/runs"):
        manifest([replace(config, run_root="runs")])


def test_paths_that_a_pod_would_look_for_in_its_image_are_refused(config: RunConfig) -> None:
    data = config.data
    for changed, line in (
        ({"data": replace(data, root="corpora/sample")}, "data.root=corpora/sample is relative.* data.root=/shared/"),
        (
            {"data": replace(data, cache_dir="cache")},
            "data.cache_dir=cache is relative, and a pod would look for it in",
        ),
        ({"init_from": "runs/demo"}, "init_from=runs/demo is relative"),
    ):
        with pytest.raises(TrainError, match=line):
            manifest([replace(config, **changed)])
    manifest([replace(config, data=replace(data, root="hf://datasets/a/b@c"), init_from="allenai/OLMo-2@main")])


def test_names_are_those_that_kubernetes_allows_and_differ_where_the_runs_do() -> None:
    names = ["demo", "Demo", "demo-seed_1", "demo-seed.1", "7b", "x" * 60, "x" * 61]
    made = [object_name(name) for name in names]
    assert made[0] == "demo" and len(set(made)) == len(names)
    assert all(len(name) <= 40 and name == name.lower() and name[0].isalpha() for name in made)


def test_a_sweep_is_a_job_for_each_member(capsys: pytest.CaptureFixture[str]) -> None:
    members = compose_members([*NEEDED, "-m", "seed=1,2", "global_batch_size=8"])
    assert launch_sweep(members, is_dry=True) == 0
    kinds = [document["kind"] for document in yaml.safe_load_all(capsys.readouterr().out)]
    assert kinds == ["ConfigMap", "TrainJob"] * 2
