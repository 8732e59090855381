"""What the command lines of the packages have in common: verbs with examples, and mistakes in one line."""

import argparse
import difflib
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from common.errors import UserError

EXIT_OK, EXIT_USER_ERROR, EXIT_INTERRUPTED = 0, 2, 130


def reported(run: Callable[[], None]) -> int:
    """Returns the exit code of a command; a mistake or an unreadable file becomes one line on standard error."""
    try:
        run()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        print(f"error: {place}{error.strerror or error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return EXIT_OK


def close_verb(word: str, verbs: Iterable[str]) -> str | None:
    """Returns the verb that a word is meant as, or None."""
    return next(iter(difflib.get_close_matches(word.strip("-").lower(), verbs, n=1, cutoff=0.75)), None)


def print_text(text: str) -> None:
    """Prints lines; a reader that has gone, as in `| head`, is no mistake."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Parser(argparse.ArgumentParser):
    """A parser that answers a mistake with one line, not with its usage."""

    def error(self, message: str) -> NoReturn:
        """Prints the mistake and ends the process with exit code 2."""
        self.exit(EXIT_USER_ERROR, f"error: {message}; `{self.prog} --help` shows examples\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Ends the process for a word that is no verb; argparse asks this of every value that has choices."""
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            close = close_verb(value, action.choices)
            hint = f"; did you mean `{self.prog} {close}`?" if close else f": choose from {', '.join(action.choices)}"
            self.exit(EXIT_USER_ERROR, f"error: there is no verb {value!r}{hint}\n")
        super()._check_value(action, value)

    def refuse_others(self, arguments: Sequence[str]) -> None:
        """Raises UserError for an option that is none of this parser's, help and Hydra's -m left out."""
        for argument in arguments:
            name = argument.partition("=")[0]
            if name.startswith("-") and name not in ("-h", "--help", "-m", "--multirun"):
                close = difflib.get_close_matches(name, self._option_string_actions, n=1)
                hint = f"; did you mean {close[0]}?" if close else f": `{self.prog} --help` shows those that there are"
                raise UserError(f"there is no option {name}{hint}")


def parser_with(prog: str, description: str, examples: str) -> argparse.ArgumentParser:
    """Returns the parser of a command with verbs, whose help ends with the examples."""
    return Parser(
        prog=prog,
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_verb(
    verbs: "argparse._SubParsersAction[argparse.ArgumentParser]", prog: str, name: str, about: str, examples: str
) -> argparse.ArgumentParser:
    """Adds a verb, whose help ends with those of the examples that are its own, and returns its parser."""
    own = [line for line in examples.splitlines() if line.startswith(f"  {prog} {name} ")]
    return verbs.add_parser(
        name,
        help=about,
        description=f"{about[0].upper()}{about[1:]}.",
        epilog="\n".join(["examples:", *own]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
