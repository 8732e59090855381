"""One HTML file from the data of a run: style, script, Plotly and data, all inside it.

The page may load nothing: its content security policy says so, and a browser holds it to that. Text from outside (run
names, tokens, messages) travels as JSON, and reaches the page as text, never as markup.
"""

import html
import json
import os
import re
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
SCRIPTS = ("charts", "heads", "tokens", "page")  # in the order in which they build on one another


def render(data: dict[str, Any]) -> str:
    """The whole page."""
    parts = {
        "title": html.escape(str(data["name"])),
        "style": (FOLDER / "report.css").read_text(),
        "plotly": plotly(),
        "data": embedded_json(data),
        "script": "\n".join((FOLDER / f"{name}.js").read_text() for name in SCRIPTS),
    }
    template = (FOLDER / "report.html").read_text()
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def embedded_json(data: Any) -> str:
    """JSON that no `</script>` or `<!--` inside a string can break out of."""
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def write_page(data: dict[str, Any], path: Path) -> None:
    """Write the page in one rename: whoever has it open, or reloads it, sees a whole one."""
    part = path.with_name(f".{path.name}.part-{os.getpid()}")
    try:
        part.write_text(render(data), encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@cache
def plotly() -> str:
    """The charts' library, as its package brings it along."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())
