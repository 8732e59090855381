"""The page of one or several evaluation folders: models side by side, a section for each kind of result."""

import html
from collections.abc import Sequence
from pathlib import Path

from common.files import write_text_whole
from report.drawing import STYLE
from report.errors import ReportError
from report.evaluation.ablation import ablation
from report.evaluation.attention import attention
from report.evaluation.folder import EVALUATIONS, Evaluated, evaluations_of, open_folders
from report.evaluation.patterns import patterns
from report.evaluation.perplexity import perplexity
from report.evaluation.scores import probes
from report.evaluation.start_layers import start_layers
from report.run_folder import RunFiles

SECTIONS = (probes, perplexity, attention, patterns, ablation, start_layers)
"""Each returns the HTML of a section, or None if no folder has results of its kind; in the order of the page."""

KEY = "<span style='color:{color}'>\u25cf</span> {name}"
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def write_evaluation(paths: Sequence[Path], out: Path) -> None:
    """Writes the page of these folders. Raises ReportError for a run, if there are no results, or if it cannot."""
    for path in paths:
        _refuse_run(path)
    text = evaluation_page(open_folders(paths))
    try:
        write_text_whole(out, text, durable=False)
    except OSError as error:
        raise ReportError(f"cannot write {out} ({error.strerror or error}): write it elsewhere with --out") from error


def _refuse_run(path: Path) -> None:
    """Raises ReportError for the folder of a run, with where its evaluations are."""
    if not RunFiles(path).config.is_file():
        return
    found = evaluations_of(path.resolve().name, EVALUATIONS)
    where = f"give {found[0]}" if found else f"`python -m evaluate probe {path}` makes one"
    raise ReportError(f"{path} is a run, and no folder of evaluations: {where}")


def evaluation_page(folders: Sequence[Evaluated]) -> str:
    """Returns the page, one HTML file. Raises ReportError if there is nothing to show."""
    found = [part for section in SECTIONS if (part := section(folders)) is not None]
    if not found:
        raise ReportError(f"{folders[0].path} has no results of an evaluation: `python -m evaluate probe` makes some")
    style = (Path(__file__).parents[1] / "report.css").read_text() + STYLE
    title = html.escape(", ".join(each.name for each in folders))
    models = " &nbsp; ".join(KEY.format(color=each.color, name=html.escape(each.name)) for each in folders)
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>Evaluation of {title}</title><style>{style}</style></head><body><div class='page'>"
        f"<header><p class='eyebrow'>evaluation</p><h1>{title}</h1><p id='models'>{models}</p></header>"
        f"{''.join(found)}<footer></footer></div></body></html>\n"
    )
