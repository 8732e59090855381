"""python -m report RUN [RUN ...]: write the page of each run, RUN/report.html, which opens in any browser.

  python -m report runs/demo
  python -m report runs/demo-backbone runs/demo
  python -m report runs/demo --out demo.html --open

A run writes its page by itself while it goes on, every logging.report_seconds, and once more at its end.
"""

import argparse
import os
import sys
import webbrowser
from pathlib import Path

from common.command_line import Parser
from report.errors import ReportError
from report.page import write_page
from report.page_data import read_run
from report.run_folder import RunFiles

EXIT_USER_ERROR = 2


def main() -> int:
    """Parses the command line and writes the pages; returns the exit code.

    A run without a page gets a line, and the others are written all the same.
    """
    parser = Parser(prog="python -m report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a run folder, such as runs/demo")
    parser.add_argument("--out", type=Path, help="where to write the page of one run (default: RUN/report.html)")
    parser.add_argument("--open", action="store_true", help="open the pages in the browser")
    parser.add_argument("--nice", action="store_true", help="run at the lowest priority")
    arguments = parser.parse_args()
    if arguments.out is not None and len(arguments.runs) > 1:
        print(f"error: --out names one page, but there are {len(arguments.runs)} runs: leave it out", file=sys.stderr)
        return EXIT_USER_ERROR
    if arguments.nice:
        os.nice(19)
    code = 0
    for run in arguments.runs:
        try:
            path = write_run(run, arguments.out)
        except (ReportError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            code = EXIT_USER_ERROR
            continue
        print(f"report: {os.fsencode(path).decode(errors='replace')}")
        if arguments.open:
            webbrowser.open(path.resolve().as_uri())
    return code


def write_run(run: Path, out: Path | None) -> Path:
    """Writes the page of a run to `out`, or into the run folder, and returns where it is.

    Raises ReportError if there is nothing to report or the folder of the page cannot be written to.
    """
    files = RunFiles(run)
    path = out or files.report
    data = read_run(files)
    try:
        write_page(data, path)
    except OSError as error:
        remedy = "correct --out" if out else "write the page elsewhere with --out"
        raise ReportError(f"cannot write in {path.parent} ({error.strerror or error}); {remedy}") from error
    return path


if __name__ == "__main__":
    sys.exit(main())
