"""NLGraph's questions on random graphs: their answers by networkx, and no way to tell them but by the paths."""

import functools
import random
import re
from collections import Counter

import networkx as nx
import pytest

from evaluate.config import parse_config
from evaluate.scoring import path, yes_or_no
from evaluate.tasks import build_tasks
from evaluate.tasks.graphs import MAX_PATHS
from evaluate.tasks.task import Sample, Task

SIZES = (6, 7, 12, 31)


@functools.cache
def task(name: str) -> Task:
    """Returns a task by name."""
    return build_tasks(parse_config([]))[name]


@functools.cache
def samples(name: str) -> list[Sample]:
    """Returns 300 samples of several sizes."""
    return [task(name).sample(random.Random(seed), SIZES[seed % len(SIZES)]) for seed in range(300)]


def graph_of(sample: Sample) -> nx.Graph:
    """Returns the graph of a prompt without weights."""
    return nx.Graph((int(i), int(j)) for i, j in re.findall(r"\((\d+),(\d+)\)", sample.prompt))


def test_connectivity_is_what_networkx_says() -> None:
    num_edges: dict[str, Counter[tuple[int, int]]] = {"yes": Counter(), "no": Counter()}
    for sample in samples("connectivity"):
        graph = graph_of(sample)
        [(first, second)] = re.findall(r"between node (\d+) and node (\d+)\?\nA: The answer is$", sample.prompt)
        right = "yes" if nx.has_path(graph, int(first), int(second)) else "no"
        assert sample.gold == (right,) and sample.answer == f" {right}" and sample.wrong_answers != (sample.answer,)
        assert {sample.answer, *sample.wrong_answers} == {" yes", " no"}
        assert first != second and not graph.has_edge(int(first), int(second))
        assert nx.number_connected_components(graph) == 2 and len(graph) in SIZES
        num_edges[right][len(graph), graph.number_of_edges()] += 1
    assert num_edges["yes"].keys() == num_edges["no"].keys()  # as many nodes and edges, whatever the answer
    assert 120 < num_edges["yes"].total() < 180


def test_cycles_are_what_networkx_says() -> None:
    shapes: dict[str, Counter[tuple[int, int]]] = {"Yes": Counter(), "No": Counter()}
    lengths = set()
    for sample in samples("cycle"):
        graph = graph_of(sample)
        listed = re.findall(r"\(\d+,\d+\)", sample.prompt)
        assert len(listed) == graph.number_of_edges()
        last = int(re.findall(r"numbered from 0 to (\d+)", sample.prompt)[0])
        cycles = nx.cycle_basis(graph)
        right = "Yes" if cycles else "No"
        assert len(cycles) <= 1 and max(graph) <= last and last + 1 in SIZES
        assert sample.gold == (right,) and {sample.answer, *sample.wrong_answers} == {" Yes", " No"}
        lengths |= {len(cycle) for cycle in cycles}
        shapes[right][last + 1, graph.number_of_edges()] += 1
    assert shapes["Yes"].keys() == shapes["No"].keys() and 120 < shapes["Yes"].total() < 180
    assert min(lengths) == 3 and len(lengths) > 4


def test_degrees_do_not_tell_the_answers_apart() -> None:
    """The nodes that a question on connectivity names have the same degrees on average, whatever the answer."""
    degrees: dict[str, list[int]] = {"yes": [], "no": []}
    for seed in range(1000):
        sample = task("connectivity").sample(random.Random(seed), 12)
        graph, asked = graph_of(sample), re.findall(r"node (\d+)", sample.prompt.partition("\nQ: ")[2])
        degrees[sample.gold[0]] += [graph.degree[int(node)] for node in asked]
    means = {answer: sum(of) / len(of) for answer, of in degrees.items()}
    assert means["yes"] == pytest.approx(means["no"], abs=0.15)


def test_every_shortest_path_is_right_and_no_other() -> None:
    several = 0
    for sample in samples("shortest_path"):
        edges = re.findall(r"an edge between node (\d+) and node (\d+) with weight (\d+)[,.]\n", sample.prompt)
        graph = nx.Graph()
        graph.add_weighted_edges_from((int(i), int(j), int(weight)) for i, j, weight in edges)
        [(first, second)] = re.findall(r"A: The shortest path from node (\d+) to node (\d+) is$", sample.prompt)
        assert nx.is_connected(graph) and len(graph) in SIZES and not graph.has_edge(int(first), int(second))
        least = nx.shortest_path_length(graph, int(first), int(second), weight="weight")
        for each in sample.gold:
            nodes = [int(node) for node in each.split(",")]
            assert (nodes[0], nodes[-1]) == (int(first), int(second))
            assert nx.path_weight(graph, nodes, "weight") == least
        every = {",".join(map(str, nodes)) for nodes in nx.all_shortest_paths(graph, int(first), int(second), "weight")}
        assert set(sample.gold) == every and len(every) <= MAX_PATHS and sample.answer == f" {sample.gold[0]}"
        several += len(every) > 1
        if len(graph) == 6:  # of all walks without a node twice, just those are right
            for nodes in nx.all_simple_paths(graph, int(first), int(second)):
                said = f" {','.join(map(str, nodes))} with a total weight of 3."
                assert path(said, sample.gold) == (nx.path_weight(graph, nodes, "weight") == least)
    assert several > 10


@pytest.mark.parametrize(
    ("output", "score"),
    [
        (" 0,3,14", 1.0),
        (" 0,5,14 with a total weight of 7.", 1.0),
        (" 0 -> 3 -> 14.\nQ: Give", 1.0),
        (" node 0, node 3 and node 14", 1.0),
        (" 0,14", 0.0),  # no such edge
        (" 3,14", 0.0),
        (" 0,3,4,14", 0.0),
        (" 0,3", 0.0),
        (" 0,3,\n14", 0.0),
        ("", 0.0),
        (" ".join(str(node) for node in range(20)), 0.0),
        (" 0,3,1", 0.0),
    ],
)
def test_a_path_is_read_up_to_its_end(output: str, score: float) -> None:
    assert path(output, ["0,3,14", "0,5,14"]) == score


@pytest.mark.parametrize(
    ("output", "of_yes", "of_no"),
    [
        (" yes.", 1, 0),
        (" No, there is no cycle in this graph.", 0, 1),
        (" yes and no", 1, 0),  # the first one counts
        ("", 0, 0),  # silence is not no
        (" there is", 0, 0),
        (" node 4 is known; yesterday", 0, 0),
    ],
)
def test_only_yes_and_no_count(output: str, of_yes: int, of_no: int) -> None:
    assert (yes_or_no(output, ["Yes"]), yes_or_no(output, ["no"])) == (of_yes, of_no)


@pytest.mark.parametrize("name", ["connectivity", "cycle"])
def test_who_always_says_the_same_is_right_in_half(name: str) -> None:
    for constant in (" yes", " no", " yes no yes no"):
        right = sum(task(name).score(constant, sample.gold) for sample in samples(name))
        assert 120 < right < 180
