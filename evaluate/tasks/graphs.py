"""NLGraph's connectivity, cycle and shortest path (arXiv 2305.10037, Arthur-Heng/NLGraph) on random graphs.

Prompts and the beginnings of answers are in its wording. Connectivity and cycle are yes in half of the samples; graphs
of both answers have as many nodes and edges, and are made alike, so that only the paths tell them apart. Differences:
edges are in a random order and direction, each graph has one question, and no two nodes of a question have an edge.
Size: nodes.
"""

import itertools
import random
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from evaluate.config import ProbeConfig
from evaluate.scoring import path, yes_or_no
from evaluate.tasks.task import Sample, Task

if TYPE_CHECKING:  # else where it is used: a quarter of a second, and most runs ask no questions about graphs
    from networkx import Graph

CONNECTIVITY = (
    "Determine if there is a path between two nodes in the graph. Note that (i,j) means that node i and node j are "
    "connected with an undirected edge.\nGraph: {edges}\nQ: Is there a path between node {first} and node {second}?\n"
    "A: The answer is"
)
CYCLE = (
    "In an undirected graph, (i,j) means that node i and node j are connected with an undirected edge.\nThe nodes are "
    "numbered from 0 to {last}, and the edges are: {edges}\nQ: Is there a cycle in this graph?\nA:"
)
SHORTEST_PATH = (
    "In an undirected graph, the nodes are numbered from 0 to {last}, and the edges are:\n{edges}.\nQ: Give the "
    "shortest path from node {first} to node {second}.\n"
    "A: The shortest path from node {first} to node {second} is"
)
WEIGHTED_EDGE = "an edge between node {} and node {} with weight {}"
MAX_WEIGHT = 10
NODES_PER_CHANGE = 4  # for so many nodes, one edge is added to a tree, or left out of one
SMALLEST = 6
MAX_PATHS = 100  # of the least weight between two nodes; a graph with more is drawn again

Edge = tuple[int, int]


class Connectivity(Task):
    """Whether two nodes of a graph of two components are in the same one."""

    score = staticmethod(yes_or_no)
    max_new_tokens = 8
    smallest = SMALLEST

    def sample(self, draw: random.Random, size: int) -> Sample:
        """Returns the graph, two halves of the nodes, and the question."""
        is_yes = draw.random() < 0.5
        nodes = draw.sample(range(size), size)
        halves = [_connected(draw, half, len(half) // NODES_PER_CHANGE) for half in (nodes[::2], nodes[1::2])]
        draw.shuffle(halves)
        (first, within), (_, beyond) = (_apart(draw, half) for half in halves)
        edges = [edge for half in halves for edge in half.edges]
        prompt = CONNECTIVITY.format(edges=_listed(draw, edges), first=first, second=within if is_yes else beyond)
        return _question(prompt, "yes", "no", is_yes)


class Cycle(Task):
    """Whether a graph has a cycle."""

    score = staticmethod(yes_or_no)
    max_new_tokens = 8
    smallest = SMALLEST

    def sample(self, draw: random.Random, size: int) -> Sample:
        """Returns a forest, or one in which an edge lies elsewhere and closes a cycle; and the question."""
        import networkx as nx

        is_yes = draw.random() < 0.5
        edges = list(nx.random_labeled_tree(size, seed=draw).edges)
        kept = draw.sample(edges, size - size // NODES_PER_CHANGE)  # so many that some three nodes stay connected
        if is_yes:
            forest = nx.Graph(kept[1:])
            kept[0] = _apart(draw, forest.subgraph(max(nx.connected_components(forest), key=len)))
        return _question(CYCLE.format(last=size - 1, edges=_listed(draw, kept)), "Yes", "No", is_yes)


class ShortestPath(Task):
    """The path of the least weight between two nodes; any of them is right."""

    score = staticmethod(path)
    max_new_tokens = 32
    smallest = SMALLEST

    def sample(self, draw: random.Random, size: int) -> Sample:
        """Returns a connected graph with weights, and the question."""
        import networkx as nx

        paths: list[str] = []
        while not 0 < len(paths) <= MAX_PATHS:
            graph = _connected(draw, range(size), size)
            first, second = _apart(draw, graph)
            for edge in graph.edges:
                graph.edges[edge]["weight"] = draw.randint(1, MAX_WEIGHT)
            found = itertools.islice(nx.all_shortest_paths(graph, first, second, weight="weight"), MAX_PATHS + 1)
            paths = sorted(",".join(map(str, nodes)) for nodes in found)
        edges = [(*edge, graph.edges[edge]["weight"]) for edge in _turned(draw, graph.edges)]
        listed = ",\n".join(WEIGHTED_EDGE.format(*each) for each in edges)
        prompt = SHORTEST_PATH.format(last=size - 1, edges=listed, first=first, second=second)
        return Sample(prompt, tuple(paths), f" {paths[0]}")


def _connected(draw: random.Random, nodes: Sequence[int], num_more: int) -> "Graph":
    """Returns a random tree of these nodes with so many more edges."""
    import networkx as nx

    tree = nx.random_labeled_tree(len(nodes), seed=draw)
    graph = nx.Graph((nodes[one], nodes[other]) for one, other in tree.edges)
    for _ in range(num_more):
        graph.add_edge(*_apart(draw, graph))
    return graph


def _apart(draw: random.Random, graph: "Graph") -> Edge:
    """Returns two random nodes without an edge between them, of which there must be some."""
    nodes = sorted(graph.nodes)
    while True:
        one, other = draw.sample(nodes, 2)
        if not graph.has_edge(one, other):
            return one, other


def _turned(draw: random.Random, edges: Iterable[Edge]) -> list[Edge]:
    """Returns the edges in a random order and direction."""
    turned = [edge if draw.random() < 0.5 else edge[::-1] for edge in edges]
    return draw.sample(turned, len(turned))


def _listed(draw: random.Random, edges: Iterable[Edge]) -> str:
    return " ".join(f"({one},{other})" for one, other in _turned(draw, edges))


def _question(prompt: str, yes: str, no: str, is_yes: bool) -> Sample:
    right, wrong = (yes, no) if is_yes else (no, yes)
    return Sample(prompt, (right,), f" {right}", (f" {wrong}",))


def build(config: ProbeConfig) -> dict[str, Task]:
    """Returns the tasks of this file by name."""
    del config
    return {"connectivity": Connectivity(), "cycle": Cycle(), "shortest_path": ShortestPath()}
