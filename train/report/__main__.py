"""python -m train.report RUN: write a run's page, RUN/report.html, which opens in any browser without a network.

  python -m train.report runs/demo
  python -m train.report runs/demo --out demo.html --open

A run that goes on writes it by itself, every logging.report_seconds, and once more at its end.
"""

import argparse
import os
import sys
import webbrowser
from pathlib import Path

from train.errors import TrainError
from train.report.page import write_page
from train.report.reading import read_run
from train.run_folder import RunFolder

EXIT_USER_ERROR = 2


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m train.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a run folder, such as runs/demo")
    parser.add_argument("--out", type=Path, help="where to write the page (RUN/report.html)")
    parser.add_argument("--open", action="store_true", help="open it in the browser")
    parser.add_argument("--nice", action="store_true", help="let everything else on the machine go first")
    arguments = parser.parse_args()
    if arguments.nice:
        os.nice(19)
    folder = RunFolder(arguments.run)
    path = arguments.out or folder.report
    try:
        write_page(read_run(folder), path)
    except (TrainError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    print(f"report: {os.fsencode(path).decode(errors='replace')}")
    if arguments.open:
        webbrowser.open(path.resolve().as_uri())
    return 0


if __name__ == "__main__":
    sys.exit(main())
