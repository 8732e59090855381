"""Writes the data of the two lm-eval tasks beside it, the same bytes every time.

    python -m evaluate.lm_eval_tasks.make

`recall_in_noise`: a fact among sentences that have nothing to do with it, asked for at the end. `table_lookup`: a cell
of a table that is written row after row; the other cells of its column are the wrong answers. They are the two kinds of
context, noisy and structured, for which the RePo paper (arXiv 2512.14391, section 4) reports gains.
"""

import json
import random
from collections.abc import Callable
from pathlib import Path

NUM_ITEMS = 50
PEOPLE = "Ada Ben Cora Dan Eva Finn Gina Hugo Iris Jon Kira Liam Mona Nils Olga Paul Rita Sven Tara Uwe"
TOWNS = "Bergen Cardiff Dresden Geneva Krakow Leiden Lyon Malmo Porto Riga Seville Turin Utrecht Vienna York"
NAMES, PLACES = PEOPLE.split(), TOWNS.split()
SUBJECTS = ["the bridge", "the harbour", "a shop", "the old library", "the night train", "the market", "a street"]
VERBS = ["was painted", "stayed open", "was moved", "was closed", "was busy", "was measured", "was repaired"]
TIMES = ["in the spring", "after the storm", "on a Monday", "for three years", "before noon", "last winter", "again"]


def recall_in_noise(draw: random.Random) -> dict[str, object]:
    """Returns one item: `text`, up to where the `answer`, a number of four digits, follows."""
    names = draw.sample(NAMES, 3)
    codes = [str(code) for code in draw.sample(range(1000, 10_000), 3)]
    facts = [f"The code of {name} is {code}." for name, code in zip(names, codes, strict=True)]
    noise = [f"{draw.choice(SUBJECTS).capitalize()} {draw.choice(VERBS)} {draw.choice(TIMES)}." for _ in range(21)]
    for fact in facts:
        noise.insert(draw.randrange(len(noise) + 1), fact)
    return {"text": f"{' '.join(noise)} The code of {names[0]} is", "answer": codes[0]}


def table_lookup(draw: random.Random) -> dict[str, object]:
    """Returns one item: `text`, up to where one of `choices` follows, and the `answer`, an index in them."""
    names, places = draw.sample(NAMES, 6), draw.sample(PLACES, 6)
    ages = [str(age) for age in draw.sample(range(20, 80), 6)]
    rows = [f"| {name} | {age} | {place} |" for name, age, place in zip(names, ages, places, strict=True)]
    asked = draw.randrange(6)
    text = "\n".join(["| name | age | place |", "| --- | --- | --- |", *rows, "", f"The place of {names[asked]} is"])
    return {"text": text, "choices": places, "answer": asked}


TASKS: dict[str, Callable[[random.Random], dict[str, object]]] = {
    "recall_in_noise": recall_in_noise,
    "table_lookup": table_lookup,
}


def write(folder: Path) -> None:
    """Writes NAME.jsonl of each task."""
    for name, item in TASKS.items():
        draw = random.Random(0)
        lines = [json.dumps(item(draw)) + "\n" for _ in range(NUM_ITEMS)]
        (folder / f"{name}.jsonl").write_text("".join(lines))


if __name__ == "__main__":
    write(Path(__file__).parent)
