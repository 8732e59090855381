"""`python -m evaluate explore`: a page that shows the positions and the attention of any text."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from evaluate.verbs.arguments import SOURCE, Verbs

if TYPE_CHECKING:
    from evaluate.explore.explorer import Shown

EXAMPLES = """
  python -m evaluate explore runs/demo                                    a local page for any text; Ctrl-C ends it
  python -m evaluate explore runs/demo runs/demo/checkpoints/step-0000080     two checkpoints side by side
  python -m evaluate explore exported/demo --text book.txt --yarn 4       beyond the length of training
  python -m evaluate explore runs/demo --text notes.txt --static notes.html   one file, to keep or to send
"""


def add(verbs: Verbs) -> None:
    """Adds the verb to a command line."""
    verb = verbs.add("explore", "show the positions and the attention of any text on a local page", EXAMPLES)
    verb.add_argument("source", metavar="SOURCE", help=SOURCE)
    verb.add_argument("other", metavar="SOURCE2", nargs="?", help="a second one, beside it")
    verb.add_argument("--text", type=Path, metavar="FILE", help="the text to begin with, in UTF-8")
    verb.add_argument("--static", type=Path, metavar="FILE.html", help="write a page of the text, and serve nothing")
    verb.add_argument("--port", type=int, metavar="N", help="default: 8642; 0 takes any free one")
    verb.add_argument("--max-tokens", type=int, metavar="N", help="the longest text, in tokens; default: 16384")
    verb.add_argument("--yarn", type=float, metavar="FACTOR", help="YaRN, relative to the length of training")
    verb.add_argument("--tokenizer", type=Path, metavar="FILE", help="a tokenizer.json, where a source has none")
    verb.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    import signal

    from common.files import write_text_whole
    from evaluate.errors import EvaluateError
    from evaluate.explore.explorer import MAX_TOKENS, Explorer
    from evaluate.explore.pages import SAMPLE, served_page, static_page
    from evaluate.explore.server import PORT, Server

    if options.static is not None and options.port is not None:
        raise EvaluateError("--static serves nothing: leave out --port")
    if options.static is not None:
        _check_place(options.static)
    max_tokens = MAX_TOKENS if options.max_tokens is None else options.max_tokens
    if max_tokens < 1:
        raise EvaluateError(f"--max-tokens must be above 0, and is {max_tokens}")
    if options.yarn is not None and not options.yarn >= 1:
        raise EvaluateError(f"--yarn must be 1 or more, and is {options.yarn:g}")
    text = SAMPLE if options.text is None else _read(options.text)
    explorer = Explorer(_open(options), max_tokens)
    if options.static is not None:
        write_text_whole(options.static, static_page(explorer, text), durable=False)
        print(f"{options.static}: {options.static.stat().st_size / 2**20:.1f} MiB; it needs no network and no server")
        return
    explorer.encode(text)  # too long a text is a mistake before anything is served
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell may have told its background jobs to ignore the first
        signal.signal(number, signal.default_int_handler)
    with Server(explorer, served_page(explorer, text), PORT if options.port is None else options.port) as server:
        print(f"{server.url} shows {' and '.join(each.name for each in explorer.models)}; Ctrl-C ends it", flush=True)
        try:
            server.serve_forever()
        finally:
            explorer.close()


def _open(options: argparse.Namespace) -> "list[Shown]":
    from evaluate.explore.explorer import Shown
    from evaluate.verbs.opening import Opened

    sources = [each for each in (options.source, options.other) if each is not None]
    opened = [Opened(source, options.tokenizer) for source in sources]
    names = [each.name for each in opened]
    if len(set(names)) < len(names):
        names = sources
    return [
        Shown(name, each.subject(options.yarn), each.writer.max_length)
        for name, each in zip(names, opened, strict=True)
    ]


def _check_place(path: Path) -> None:
    """Raises EvaluateError where no file can be written, before a model is read for it."""
    from evaluate.errors import EvaluateError

    if path.is_dir():
        raise EvaluateError(f"--static {path} is a folder: name a file in it, as in {path / 'page.html'}")
    if not path.parent.is_dir():
        raise EvaluateError(f"--static {path}: there is no folder {path.parent}: make it (mkdir -p), or name another")


def _read(path: Path) -> str:
    from evaluate.errors import EvaluateError

    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise EvaluateError(f"{path} is not UTF-8 ({error.reason} at byte {error.start})") from error
