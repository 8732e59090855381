"""One HTML file from the data of a run, or of a comparison: style, scripts, Plotly and data, all inside it.

The page loads nothing: its content security policy forbids it. Text from outside (run names, tokens, messages) is in it
as JSON, and is shown as text, never as markup.
"""

import html
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from common.files import write_text_whole

FOLDER = Path(__file__).parent
SCRIPTS = {
    "report": ("charts", "evaluation", "heads", "tokens", "page"),
    "comparison": ("charts", "comparison"),
    "explorer": ("charts", "explorer-data", "explorer-canvas", "explorer-text", "explorer-legend", "explorer"),
}
"""The scripts of each page by the name of its template; each uses the ones before it."""


def render(data: dict[str, Any], template: str = "report", *, asks_its_server: bool = False) -> str:
    """Returns the whole page of this template. Unless it `asks_its_server`, it sends nothing."""
    parts = {
        "title": html.escape(str(data["name"])),
        "style": (FOLDER / "report.css").read_text(),
        "plotly": plotly(),
        "data": embedded_json(data),
        "connect": "'self'" if asks_its_server else "'none'",
        "script": "\n".join((FOLDER / f"{name}.js").read_text() for name in SCRIPTS[template]),
    }
    text = (FOLDER / f"{template}.html").read_text()
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], text)


def embedded_json(data: Any) -> str:
    """Returns JSON that is safe inside a <script>: it holds no `<`. Raises ValueError for NaN and infinity."""
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def write_page(data: dict[str, Any], path: Path, template: str = "report") -> None:
    """Writes the page whole: a browser that reloads it sees the old page or the new one. Raises OSError."""
    write_text_whole(path, render(data, template), durable=False)  # it can be written again at any time


@cache
def plotly() -> str:
    """Returns the script of the charts' library, as its package brings it along."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())
