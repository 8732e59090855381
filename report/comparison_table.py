"""A comparison as a table on the screen, and as CSV."""

import csv
import io
from collections.abc import Sequence

from common.words import config_text
from report.comparison import SEEDS, Comparison


def text_table(comparison: Comparison) -> str:
    """Returns the table for people: a line per run, then one per setting where there are several seeds."""
    lines = [title(comparison), *aligned(run_cells(comparison))]
    if any(len(setting.runs) > 1 for setting in comparison.settings):
        lines += ["", "over seeds", *aligned(setting_cells(comparison)), *same_over_seeds(comparison)]
    return "\n".join(lines)


def title(comparison: Comparison) -> str:
    """Returns at what and by what the runs are compared."""
    by = "validation loss" if comparison.is_evaluated else "mean training loss of the last steps"
    return f"at {comparison.tokens:,} tokens, by {by}"


def same_over_seeds(comparison: Comparison) -> list[str]:
    """Returns a sentence about settings whose runs do not depend on their seeds; nothing if there are none."""
    same = [setting for setting in comparison.settings if setting.spread == 0]
    if not same:
        return []
    return [
        f"{len(same)} of {len(comparison.settings)} settings have the same loss with every seed, which is no noise: "
        "nothing in these runs depends on it. Vary data.seed too, as sweep=paper does."
    ]


def csv_table(comparison: Comparison) -> str:
    """Returns the same numbers, unrounded, as CSV with a header."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    columns = ["run", *comparison.keys, "state", "step", "max_steps", "tokens_compared", "loss", "eval_loss"]
    writer.writerow([*columns, "tokens_per_second", "alerts", "process_hours", "checkpoint"])
    for run in comparison.runs:
        seen = run.overview
        writer.writerow(
            [
                run.name,
                *(config_text(run.differs[key]) for key in comparison.keys),
                seen.state,
                seen.step,
                seen.max_steps,
                comparison.tokens,
                run.loss,
                run.eval_loss,
                run.tokens_per_second,
                run.alerts,
                run.process_hours,
                seen.checkpoint,
            ]
        )
    return out.getvalue()


def run_cells(comparison: Comparison) -> list[list[str]]:
    """Returns the header and a row of texts per run, the best first."""
    best = next((run.score for run in comparison.runs if run.score is not None), None)
    evaluated = ["eval loss"] if comparison.is_evaluated else []
    rows = [["run", *evaluated, "loss", "to best", "step", "state", "tokens/s", "process-hours", "alerts"]]
    rows[0] += comparison.keys
    for run in comparison.runs:
        behind = "" if run.score is None or best is None else f"{run.score - best:+.4f}"
        rows.append(
            [
                run.name,
                *([figure(run.eval_loss, 4)] if comparison.is_evaluated else []),
                figure(run.loss, 4),
                behind,
                str(run.overview.step),
                run.overview.state,
                "" if run.tokens_per_second is None else f"{run.tokens_per_second:,.0f}",
                figure(run.process_hours, 3),
                str(run.alerts),
                *(config_text(run.differs[key]) for key in comparison.keys),
            ]
        )
    return rows


def setting_cells(comparison: Comparison) -> list[list[str]]:
    """Returns the header and a row of texts per setting, the best first."""
    settings = comparison.settings
    shown = [key for key in comparison.keys if key not in SEEDS]
    rows = [[*shown, "seeds", "mean", "spread", "to best"]]
    best = settings[0].mean
    for setting in settings:
        behind = "" if setting.mean is None or best is None else f"{setting.mean - best:+.4f}"
        values = [config_text(setting.differs[key]) for key in shown]
        rows.append([*values, str(len(setting.runs)), figure(setting.mean, 4), figure(setting.spread, 4), behind])
    return rows


def figure(value: float | None, digits: int) -> str:
    """Returns a number with so many digits after the point; empty for None."""
    return "" if value is None else f"{value:.{digits}f}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns rows of texts as lines whose columns stand below each other."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
