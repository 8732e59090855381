"""The page of the explorer, for the server or as one file with what a text gave."""

import base64
from typing import Any

from evaluate.explore.explorer import Explorer, packed
from report.packing import evenly_spaced
from report.page import render

STATIC_BYTES = 8 * 2**20  # of attention in a static file, before base64

SAMPLE = """\
| city | river | founded |
|---|---|---|
| Paris | Seine | 52 |
| Rome | Tiber | 753 |
| Vienna | Danube | 15 |
| Porto | Douro | 300 |

The city of Rome lies on the Tiber. The key of the red box is 4817. Porto lies where the Douro meets the sea, and \
Vienna on the Danube.

def mean(values):
    total = 0
    for value in values:
        total += value
    return total / len(values)

Question: what is the key of the red box? Answer: 4817
"""


def served_page(explorer: Explorer, text: str) -> str:
    """Returns the page that asks the server it comes from; it begins with a text."""
    return render(_data(explorer, text), "explorer", asks_its_server=True)


def static_page(explorer: Explorer, text: str, attention_bytes: int = STATIC_BYTES) -> str:
    """Returns the page with the positions of a text, and attention from as many of its tokens as fit.

    Raises EvaluateError for an empty text or one that is too long.
    """
    length = len(explorer.encode(text))
    per_key = 4 * sum(shown.num_layers * shown.num_heads for shown in explorer.models)
    num_tokens = min(length, int(attention_bytes / (per_key * (length + 1) / 2)))
    # From the end: the last token sees the whole text.
    tokens = sorted(length - 1 - token for token in evenly_spaced(range(length), num_tokens)) if num_tokens else []
    rows = [
        explorer.attention_rows(text, model, layer, token)
        for model, shown in enumerate(explorer.models)
        for layer in range(shown.num_layers)
        for token in tokens
    ]
    embedded = {"answer": _base64(explorer.read(text)), "attention": _base64(packed({"tokens": tokens}, rows))}
    return render(_data(explorer, text) | embedded, "explorer")


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _data(explorer: Explorer, text: str) -> dict[str, Any]:
    names = [shown.name for shown in explorer.models]
    return {
        "name": " and ".join(names),
        "models": [{"name": shown.name, "trained_length": shown.trained_length} for shown in explorer.models],
        "text": text,
    }
