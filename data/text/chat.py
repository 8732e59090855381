"""Lists of messages to text, through the chat template of a tokenizer.

The template is Jinja, rendered in a sandbox as `transformers` does. It writes special tokens such as `<|im_start|>`;
in a record, the same letters are plain text. To tell them apart after rendering, special tokens in messages and tools
(names of fields included) are broken up before. Those that are whole afterwards are the template's, and stand between
marks in the text of the document.

Marks are code points that Unicode keeps out of texts; those in a record become U+FFFD. A template that asks for the
date (`strftime_now`) gets none: a document must not depend on the day.
"""

import functools
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from jinja2 import Template, TemplateError, TemplateSyntaxError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from data.errors import DataError
from data.fetch.roots import Root, locate_tokenizer
from data.tokenizer import Piece, cut_document

MARK = "\ufdd0"  # on both sides of a special token of the template
BREAK = "\ufdd1"  # after the first character of a special token that a record spells out, while rendering
RENDERING = "rendering-2"  # of the same messages, to other text than with an earlier number
TEMPLATE_NAME = "chat_template.jinja"
SETTINGS_NAME = "tokenizer_config.json"


class UnrenderedError(Exception):
    """Messages that the template cannot render; the text says why."""


@dataclass(frozen=True)
class ChatTemplate:
    """A template, and the special tokens that it may write."""

    source: str
    """The Jinja text."""
    special_tokens: tuple[str, ...]
    """The tokenizer's."""
    eos_token: str
    """What ends a document of the stream: left out at both ends of the rendered text, since the stream puts its own."""
    variables: tuple[tuple[str, str], ...] = ()
    """Names and values that the template may use, such as `bos_token`."""

    @property
    def digest(self) -> str:
        """A short value that changes with what is rendered."""
        parts = [RENDERING, self.source, *self.special_tokens, self.eos_token, *map(repr, self.variables)]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]

    def render(self, messages: Any, tools: Any = None) -> str:
        """Returns the text of one record, special tokens between marks; raises UnrenderedError."""
        special = _pattern(self.special_tokens)
        try:
            rendered = compile_template(self.source).render(
                messages=_map_strings(messages, lambda text: _break_up(text, special)),
                tools=_map_strings(tools, lambda text: _break_up(text, special)),
                documents=None,
                add_generation_prompt=False,
                **dict(self.variables),
            )
        except Exception as error:  # Jinja's own, and a template's mistakes, such as the sum of a text and nothing
            reason = str(error).strip().partition("\n")[0]
            raise UnrenderedError(reason or type(error).__name__) from error
        clean = rendered.replace(MARK, "\ufffd")
        marked = special.sub(lambda found: f"{MARK}{found[0]}{MARK}", clean).replace(BREAK, "")
        end = f"{MARK}{self.eos_token}{MARK}"
        marked = marked.removeprefix(end)
        return marked.rstrip().removesuffix(end) if marked.rstrip().endswith(end) else marked


def cut_rendered(text: str) -> list[Piece]:
    """Returns a rendered document in pieces: each special token is one, the text between them is cut as any text."""
    pieces: list[Piece] = []
    for number, part in enumerate(text.split(MARK)):
        if number % 2:
            pieces.append(Piece(part, is_last=False, is_special=True))
        elif part:
            pieces += [piece._replace(is_last=False) for piece in cut_document(part)]
    return [*pieces[:-1], pieces[-1]._replace(is_last=True)]


def open_template(given: str | None, key: str, tokenizer: str, eos_token: str, root: Root) -> ChatTemplate:
    """Returns the template of this name (named as `data.tokenizer` is), or the one beside the tokenizer.

    Raises DataError, naming `key`, where there is none, and for a faulty one.
    """
    path = _beside(tokenizer, SETTINGS_NAME, root)
    try:
        settings = dict(orjson.loads(path.read_bytes())) if path else {}
        added = orjson.loads(locate_tokenizer(tokenizer, root).read_bytes()).get("added_tokens", [])
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{key}: the files of the tokenizer {tokenizer} cannot be read: {error}") from error
    special = tuple(token["content"] for token in added if token.get("special"))
    source = _source(given, key, tokenizer, settings, root)
    try:
        compile_template(source)
    except TemplateSyntaxError as error:
        raise DataError(
            f"{key}: line {error.lineno} of the template is faulty ({error.message}); correct it"
        ) from error
    return ChatTemplate(source, special, eos_token, tuple(_token_names(settings)))


def _source(given: str | None, key: str, tokenizer: str, settings: dict[str, Any], root: Root) -> str:
    if given is not None:
        path = locate_tokenizer(given, root)
        if not path.is_file():
            raise DataError(f"{key}: there is no file {path}; give the path of a Jinja file")
        return path.read_text()
    if beside := _beside(tokenizer, TEMPLATE_NAME, root):
        return beside.read_text()
    found = settings.get("chat_template")
    if isinstance(found, list):  # several, each with a name
        found = next((entry["template"] for entry in found if entry.get("name") == "default"), None)
    if not isinstance(found, str):
        raise DataError(
            f"{key}: there is no {TEMPLATE_NAME} beside the tokenizer {tokenizer}, and no chat_template in its "
            f"{SETTINGS_NAME}; give the path of a Jinja file"
        )
    return found


def _beside(tokenizer: str, name: str, root: Root) -> Path | None:
    """Returns a file in the folder of the tokenizer, fetched if need be; None where there is none."""
    folder, slash, _ = tokenizer.rpartition("/")
    try:
        path = locate_tokenizer(f"{folder}{slash}{name}", root)
    except DataError:  # a remote place without it
        return None
    return path if path.is_file() else None


def _token_names(settings: dict[str, Any]) -> list[tuple[str, str]]:
    """Returns name and text of each `..._token` of a tokenizer_config.json."""
    texts = {name: value.get("content") if isinstance(value, dict) else value for name, value in settings.items()}
    return [(name, text) for name, text in sorted(texts.items()) if name.endswith("_token") and isinstance(text, str)]


@functools.cache
def _pattern(special_tokens: tuple[str, ...]) -> re.Pattern[str]:
    """Returns what matches any of the special tokens, the longest first, unless it was broken up."""
    if not special_tokens:
        return re.compile(r"(?!)")  # matches nothing
    longest_first = sorted(special_tokens, key=len, reverse=True)
    return re.compile(f"(?:{'|'.join(map(re.escape, longest_first))})(?!{BREAK})")


def _break_up(text: str, special: re.Pattern[str]) -> str:
    """Returns the text without whole special tokens: also none within another, and none that overlaps one."""
    broken = re.sub(f"[{MARK}{BREAK}]", "\ufffd", text)
    while special.search(broken):
        broken = special.sub(lambda found: f"{found[0][0]}{BREAK}{found[0][1:]}", broken)
    return broken


def _map_strings(value: Any, change: Callable[[str], str]) -> Any:
    """Returns the value with all texts changed, names of fields too."""
    if isinstance(value, dict):
        return {_map_strings(key, change): _map_strings(part, change) for key, part in value.items()}
    if isinstance(value, list):
        return [_map_strings(part, change) for part in value]
    return change(value) if isinstance(value, str) else value


@functools.cache
def compile_template(source: str) -> Template:
    """Returns the template, with the functions that templates of the hub use; raises TemplateSyntaxError."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _fail, "namespace": _Names, "dict": lambda **values: values}
    return environment.from_string(source)


def _fail(message: str) -> None:
    raise TemplateError(message)


def _to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)  # Jinja's own escapes HTML


class _Names(Namespace):
    """A template's variables; without those that lead out of the sandbox."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise SecurityError(f"a chat template cannot set {name}")
        super().__setitem__(name, value)


class _Generation(Extension):
    """The tag around what the assistant says: it marks the text for others and writes nothing."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Returns what the tag encloses."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)
