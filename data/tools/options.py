"""Options of the verbs that say what the files of a folder hold, as the keys of a data config do for its files."""

import argparse

from data.config import TokenDtype
from data.errors import DataError
from data.text.form import TextForm

CONFIG_ENDS = (".yaml", ".yml")


def add_form_options(verb: argparse.ArgumentParser) -> None:
    """Adds them to a verb."""
    verb.add_argument("--text-key", metavar="KEY", help="field or column that holds the text (default: text)")
    verb.add_argument(
        "--token-dtype",
        choices=[kind.value for kind in TokenDtype],
        help="how token files without a header store ids (default: uint32)",
    )


def is_config(options: argparse.Namespace) -> bool:
    """Returns whether ROOT is a data config; raises DataError for an option that it has a key for."""
    if not options.root or not options.root.endswith(CONFIG_ENDS):
        return False
    for name in ("text_key", "token_dtype"):
        if getattr(options, name) is not None:
            raise DataError(f"--{name.replace('_', '-')} is for a folder; in a data config, set {name} of the source")
    return True


def form_option(options: argparse.Namespace) -> TextForm:
    """Returns the form of a folder's records."""
    return TextForm(options.text_key or "text", key="--text-key")


def dtype_option(options: argparse.Namespace) -> TokenDtype:
    """Returns how token files without a header store ids."""
    return TokenDtype(options.token_dtype or TokenDtype.uint32.value)


def naming_options(problem: str) -> str:
    """Returns what is wrong with a file of a folder with the option to add, where it named the key to set."""
    return problem.replace("set token_dtype to ", "add --token-dtype ")
