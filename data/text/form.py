"""What a source's records look like, and which of its files hold them: the fields of `data.sources` for text."""

import glob
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import PurePosixPath
from typing import Any

import orjson

from data.config import DataConfig, SourceConfig
from data.errors import DataError
from data.fetch.files import DataFile
from data.fetch.roots import Root
from data.text.chat import ChatTemplate, UnrenderedError, cut_rendered, open_template
from data.text.names import SAVED_SPLITS, find_text_names, is_companion
from data.tokenizer import Piece, cut_document

MISSING = object()
MAX_SHOWN = 12  # names of fields in a message


class NoTextError(Exception):
    """A record without a text; the message says what it has instead."""


@dataclass(frozen=True)
class TextForm:
    """Where the text of a record is. The defaults are JSON lines and tables with a field `text`."""

    text_key: str = "text"
    """Its field; with dots, one in nested fields."""
    messages_key: str | None = None
    """The field of messages, instead."""
    template: ChatTemplate | None = None
    """What turns those into text."""
    separator: str | None = None
    """What stands between the documents of a .txt file; None: a file is a document."""
    key: str = "text_key"
    """What a message tells the user to set."""

    @property
    def column(self) -> str:
        """The column of a table that is needed."""
        return self.messages_key or self.text_key

    @property
    def identity(self) -> dict[str, str]:
        """What changes the documents, by the name of its key: empty for the defaults."""
        values = {
            "text_key": "" if self.text_key == "text" else self.text_key,
            "messages_key": self.messages_key or "",
            "chat_template": self.template.digest if self.template else "",
            "separator": repr(self.separator) if self.separator else "",
        }
        return {name: value for name, value in values.items() if value}

    @property
    def cut(self) -> Callable[[str], list[Piece]]:
        """What cuts a document into pieces."""
        return cut_rendered if self.template else cut_document

    def text_of(self, record: Any) -> str:
        """Returns the text of a record; raises NoTextError."""
        if not isinstance(record, dict):
            raise NoTextError(f"is a {type(record).__name__}, not an object with fields")
        if self.template is None:
            found = value_at(record, self.column, MISSING)
            if isinstance(found, str):
                return found
            instead = "no text" if found is MISSING else f"{_kind(found)} and no text"
            raise NoTextError(f"has {instead} in {self.text_key!r}; {describe_fields(record)}")
        found = value_at(record, self.column)
        if isinstance(found, str | bytes):
            found = _parsed(found)
        if not isinstance(found, list) or not all(isinstance(message, dict) for message in found):
            raise NoTextError(f"has no list of messages in {self.messages_key!r}; {describe_fields(record)}")
        try:
            return self.template.render(found, record.get("tools"))
        except UnrenderedError as error:
            raise NoTextError(f"cannot be rendered by the chat template: {error}") from error


PLAIN = TextForm()


@dataclass(frozen=True)
class TextFile(DataFile):
    """A file of text, with the form of its records."""

    form: TextForm = PLAIN
    """As its source has it."""


def form_of(file: DataFile) -> TextForm:
    """Returns the form of a file's records: the default for a file of no source."""
    return file.form if isinstance(file, TextFile) else PLAIN


def with_form(file: DataFile, form: TextForm) -> TextFile:
    """Returns the file with this form."""
    return TextFile(**{item.name: getattr(file, item.name) for item in fields(DataFile)}, form=form)


def value_at(record: Mapping[str, Any], key: str, missing: Any = None) -> Any:
    """Returns the field of this name, or, for a name with dots, the one in nested fields; `missing` without it."""
    if key in record:
        return record[key]
    value: Any = record
    for name in key.split("."):
        value = value.get(name, missing) if isinstance(value, dict) else missing
    return value


def _kind(value: Any) -> str:
    """Returns what a value is in words, for messages."""
    if value is None:
        return "null"
    kinds = ((bytes, "bytes"), (list, "a list"), (dict, "nested fields"))
    return next((words for kind, words in kinds if isinstance(value, kind)), f"a value ({type(value).__name__})")


def describe_fields(record: Mapping[str, Any]) -> str:
    """Returns the names of a record's fields in words, those that may hold the text with their kind."""
    kinds = {
        name: "text" if isinstance(value, str) else "list" if isinstance(value, list) else ""
        for name, value in record.items()
    }
    names = [f"{name} ({kind})" if kind else name for name, kind in list(kinds.items())[:MAX_SHOWN]]
    more = f" and {len(kinds) - MAX_SHOWN} more" if len(kinds) > MAX_SHOWN else ""
    return f"its fields are {', '.join(names)}{more}" if names else "it has no fields"


def open_form(config: DataConfig, source: SourceConfig, key: str, root: Root) -> TextForm:
    """Returns the form of a source's records, `key` being its own; raises DataError for a faulty chat template."""
    if source.messages_key is None:
        return TextForm(source.text_key, separator=source.separator, key=f"{key}.text_key")
    template = open_template(
        source.chat_template, f"{key}.chat_template", str(config.tokenizer), config.eos_token, root
    )
    return TextForm(source.text_key, source.messages_key, template, source.separator, f"{key}.messages_key")


def find_text_files(config: DataConfig, source: SourceConfig, key: str, root: Root) -> list[DataFile]:
    """Returns the files of a source of text, each with its form; raises DataError.

    A pattern that is a local folder stands for the text files below it, without what `save_to_disk` puts beside tables.
    """
    form = open_form(config, source, key, root)
    patterns = [name for pattern in source.files for name in _expanded(pattern, f"{key}.files", root)]
    files = root.find(patterns, f"{key}.files")
    are_tables = any(file.name.endswith(".arrow") for file in files)
    return [with_form(file, form) for file in files if not (are_tables and is_companion(file.name))]


def _expanded(pattern: str, key: str, root: Root) -> Sequence[str]:
    folder = root.folder / pattern
    if root.remote is not None or not pattern or PurePosixPath(pattern).is_absolute() or not folder.is_dir():
        return [pattern]
    if (folder / SAVED_SPLITS).is_file():
        splits = sorted(path.name for path in folder.iterdir() if path.is_dir())
        raise DataError(
            f"{key}: {folder} holds the splits {', '.join(splits)} of a dataset; name the one to train on, as in "
            f"{pattern.rstrip('/')}/{splits[0] if splits else 'train'}"
        )
    names = find_text_names(folder)
    if not names:
        raise DataError(f"{key}: the folder {folder} holds no text files; correct the pattern")
    return [glob.escape(str(PurePosixPath(pattern, name))) for name in names]


def _parsed(text: str | bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
