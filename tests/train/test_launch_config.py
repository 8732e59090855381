"""What launch=... needs is said in one line, before anything starts or is submitted."""

import pytest

from train.errors import TrainError
from train.launch_config import KubernetesConfig, LaunchConfig, LaunchWay, SlurmConfig, seconds_of

SLURM, NODES, KUBERNETES = LaunchWay.slurm, LaunchWay.nodes, LaunchWay.kubernetes


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        ("24:00:00", 86400),
        ("00:20:30", 1230),
        ("30:00", 1800),
        ("1-12", 129600),
        ("2-00:10", 173400),
        ("1-0:0:5", 86405),
    ],
)
def test_a_time_limit_is_read_as_slurm_reads_it(time: str, seconds: int) -> None:
    assert seconds_of(time) == seconds


@pytest.mark.parametrize("time", ["86400", "1d", "24:00:00:00", "", "12:00 "])
def test_what_slurm_would_read_as_another_time_is_refused(time: str) -> None:
    with pytest.raises(TrainError, match=r"is no time: write HH:MM:SS or D-HH:MM:SS, in quotes in a YAML file"):
        seconds_of(time)


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (LaunchConfig(nodes=2), "launch.nodes=2 is for several machines: add launch=nodes, slurm or kubernetes"),
        (LaunchConfig(nodes=0), "launch.nodes=0 is out of range"),
        (
            LaunchConfig(NODES),
            "launch=nodes needs launch.rendezvous=HOST:PORT, where the machines meet, or launch.hostf",
        ),
        (
            LaunchConfig(NODES, nodes=2, rendezvous="node0"),
            "launch.rendezvous=node0 is not HOST:PORT, as in node0:29400",
        ),
        (LaunchConfig(NODES, rendezvous="node0:1"), "launch=nodes needs launch.nodes=N, the number of machines"),
        (LaunchConfig(NODES, hostfile="x", nodes=2), "launch.hostfile says what runs where: leave out launch.nodes, "),
        (LaunchConfig(NODES, hostfile="x", parallel=2), "launch.parallel=2 is for launch=local"),
        (LaunchConfig(SLURM, parallel=2), "launch.parallel=2 is for launch=local: use launch.slurm.array_limit"),
        (
            LaunchConfig(SLURM, slurm=SlurmConfig(time="0:10:00")),
            "launch.slurm.time=0:10:00 is not longer than launch.slurm.warning_seconds=600: the job would be warned",
        ),
        (LaunchConfig(SLURM, slurm=SlurmConfig(options=["x"])), "launch.slurm.options has 'x', which is no option"),
        (LaunchConfig(KUBERNETES), "launch=kubernetes needs launch.kubernetes.image"),
        (
            LaunchConfig(KUBERNETES, kubernetes=KubernetesConfig(image="x")),
            "launch=kubernetes needs launch.kubernetes.volume_claim",
        ),
        (
            LaunchConfig(KUBERNETES, kubernetes=KubernetesConfig(mount_path="x")),
            "launch.kubernetes.mount_path=x has to begin with /",
        ),
        (
            LaunchConfig(KUBERNETES, kubernetes=KubernetesConfig(node_labels=["x"])),
            "launch.kubernetes.node_labels has 'x': write labels as LABEL=VALUE",
        ),
    ],
)
def test_what_a_way_to_launch_lacks_is_named_with_its_key(config: LaunchConfig, line: str) -> None:
    with pytest.raises(TrainError) as error:
        config.validate()
    assert str(error.value).startswith(line)
