"""RULER's variable tracking (vt): one chain of assignments in noise; which variables have its value?

As in NVIDIA/RULER variable_tracking.py, with one solved example before it. Differences: the example has at most an
eighth of the length below 4,000 tokens, where RULER's has 500; no two names of a sample are the same. Size:
repetitions of the noise.
"""

import itertools
import random

from evaluate.config import ProbeConfig
from evaluate.scoring import contained
from evaluate.tasks.needles import NOISE
from evaluate.tasks.task import Sample, Task
from evaluate.words import UPPER, different, letters, num_numbers, num_strings, number

TEMPLATE = (
    "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n{context}\nQuestion: Find "
    "all variables that are assigned the value {value} in the text above. Answer: According to the chain(s) of "
    "variable assignment in the text above, {count} variables are assigned the value {value}, they are: "
)
VALUE_DIGITS = 5
EXAMPLE_LETTERS = 3
EXAMPLE_NOISE = 16  # repetitions of the noise: about 500 tokens, as RULER's search for its example ends
TOKENS_PER_NOISE = 24


class VariableTracking(Task):
    """One chain in noise."""

    score = staticmethod(contained)
    max_new_tokens = 30
    settings = ("num_hops", "name_letters")

    def __init__(self, config: ProbeConfig, example_noise: int = EXAMPLE_NOISE) -> None:
        self._config = config
        self.smallest = config.num_hops + 1
        self._example_noise = max(self.smallest, example_noise)

    def at_length(self, length: int) -> Task:
        """Returns the task with an example that leaves most of the length to the question."""
        return VariableTracking(self._config, min(EXAMPLE_NOISE, length // 8 // TOKENS_PER_NOISE))

    def sample(self, draw: random.Random, size: int) -> Sample:
        """Returns the example and the question."""
        num_names = self._config.num_hops + 1
        taken: set[str] = set()
        solved = _names(draw, num_names, EXAMPLE_LETTERS, "num_hops", taken)
        names = _names(draw, num_names, self._config.name_letters, "name_letters", taken)
        values = different(lambda: number(draw, VALUE_DIGITS), 2, num_numbers(VALUE_DIGITS), "", set())
        example = f"{_question(draw, solved, values[0], self._example_noise)} {' '.join(solved)}\n\n"
        return Sample(example + _question(draw, names, values[1], size), tuple(names), f" {' '.join(names)}")


def _names(draw: random.Random, count: int, num_letters: int, setting: str, taken: set[str]) -> list[str]:
    return different(lambda: letters(draw, UPPER, num_letters), count, num_strings(UPPER, num_letters), setting, taken)


def _question(draw: random.Random, names: list[str], value: str, num_noise: int) -> str:
    """Returns a prompt with one chain: its assignments are in order, at random places in the noise."""
    chain = [f"VAR {names[0]} = {value}"]
    chain += [f"VAR {later} = VAR {earlier} " for earlier, later in itertools.pairwise(names)]
    lines = [NOISE] * num_noise
    places = sorted(draw.sample(range(num_noise), len(chain)))
    for already, (place, assignment) in enumerate(zip(places, chain, strict=True)):
        lines.insert(place + already, assignment)
    return TEMPLATE.format(context="\n".join(lines), value=value, count=len(names))


def build(config: ProbeConfig) -> dict[str, Task]:
    """Returns the tasks of this file by name."""
    return {"vt": VariableTracking(config)}
