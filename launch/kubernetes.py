"""The manifest of a run for Kubernetes: a TrainJob of Kubeflow Trainer (2.3), and a ConfigMap with the run's config.

The operator starts one pod per node with torchrun's PET_* variables, which give the number of nodes and ranks and where
they meet; so torchrun gets no such options here. What the CRD of the operator accepts, tests/launch/trainjob-crd.json
holds. (https://github.com/kubeflow/trainer, docs/operator-guides)
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import yaml
from omegaconf import OmegaConf

from launch.ranks import shape_of
from train.config import RunConfig
from train.errors import TrainError
from train.huggingface.address import is_hub_id

CONFIG_FOLDER = "/etc/repo-cpt"
CONFIG_FILE = "launch.yaml"
MANAGER = "repo-cpt/launch"
MAX_NAME = 40  # the operator makes names of pods from it, which have at most 63 characters
CONTAINER = "node"  # that of the ranks, and the name of its job, in the operator's runtimes


class _Dumper(yaml.SafeDumper):
    """Writes a text of several lines as these lines."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def manifest(configs: Sequence[RunConfig]) -> str:
    """Returns the documents of the runs as YAML. Raises TrainError for a config that they cannot carry out."""
    parts = [part for config in configs for part in (_config_map(config), _train_job(config))]
    return yaml.dump_all(parts, Dumper=_Dumper, sort_keys=False, explicit_start=True, width=1000)


def object_name(name: str) -> str:
    """Returns the name of a run as Kubernetes allows it; a hash keeps apart what would be the same."""
    if len(name) <= MAX_NAME and re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name):
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[: MAX_NAME - 9].strip("-")
    return f"run-{digest}" if not plain[:1].isalpha() else f"{plain}-{digest}"


def _metadata(config: RunConfig) -> dict[str, Any]:
    return {"name": object_name(config.name), "namespace": config.launch.kubernetes.namespace}


def _config_map(config: RunConfig) -> dict[str, Any]:
    text = OmegaConf.to_yaml(OmegaConf.create(config.as_plain()))
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _metadata(config), "data": {CONFIG_FILE: text}}


def _train_job(config: RunConfig) -> dict[str, Any]:
    given = config.launch.kubernetes
    nodes, ranks = shape_of(config)
    if not PurePosixPath(config.run_root).is_relative_to(given.mount_path):
        raise TrainError(
            f"run_root={config.run_root} is not on the volume, and would be lost with the pod: "
            f"use run_root={given.mount_path}/runs"
        )
    if relative := next(
        (f"{key}={place}" for key, place in _places(config).items() if not place.startswith("/")), None
    ):
        raise TrainError(
            f"{relative} is relative, and a pod would look for it in its image: give its place on the volume, as in "
            f"{relative.partition('=')[0]}={given.mount_path}/..."
        )
    trainer = {
        "image": given.image,
        "command": [given.python, "-m", "launch.torchrun"],
        "args": ["--module", "train", "--config", f"{CONFIG_FOLDER}/{CONFIG_FILE}"],
        "numNodes": nodes,
        "numProcPerNode": ranks,
        **_resources(config),
    }
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": _metadata(config),
        "spec": {
            "runtimeRef": {"name": given.runtime},
            "trainer": trainer,
            "runtimePatches": [{"manager": MANAGER, "trainingRuntimeSpec": _patch(_pod(config))}],
        },
    }


def _places(config: RunConfig) -> dict[str, str]:
    """Returns the folders that a run reads or keeps, by key, without those on servers."""
    places = {"data.root": config.data.root, "init_from": config.init_from, "data.cache_dir": config.data.cache_dir}
    return {key: place for key, place in places.items() if place and "://" not in place and not is_hub_id(place)}


def _resources(config: RunConfig) -> dict[str, Any]:
    """Returns resourcesPerNode, or nothing where nothing is asked for."""
    given = config.launch.kubernetes
    wanted: dict[str, int | str | None] = {
        given.gpu_resource: config.launch.gpus_per_node or None,
        "cpu": given.cpus_per_node,
        "memory": given.memory,
    }
    asked = {name: amount for name, amount in wanted.items() if amount is not None}
    return {"resourcesPerNode": {"requests": asked, "limits": asked.copy()}} if asked else {}


def _pod(config: RunConfig) -> dict[str, Any]:
    given = config.launch.kubernetes
    volumes: dict[str, tuple[str, dict[str, Any]]] = {
        "shared": (given.mount_path, {"persistentVolumeClaim": {"claimName": given.volume_claim}}),
        "config": (CONFIG_FOLDER, {"configMap": {"name": object_name(config.name)}}),
        "memory": ("/dev/shm", {"emptyDir": {"medium": "Memory", "sizeLimit": given.shared_memory}}),
    }
    labels = dict(label.split("=", 1) for label in given.node_labels)
    return {
        "terminationGracePeriodSeconds": given.grace_seconds,
        **({"nodeSelector": labels} if labels else {}),
        "containers": [
            {
                "name": CONTAINER,
                "volumeMounts": [{"name": name, "mountPath": path} for name, (path, _) in volumes.items()],
            }
        ],
        "volumes": [{"name": name, **source} for name, (_, source) in volumes.items()],
    }


def _patch(pod: dict[str, Any]) -> dict[str, Any]:
    job = {"name": CONTAINER, "template": {"spec": {"template": {"spec": pod}}}}
    return {"template": {"spec": {"replicatedJobs": [job]}}}
