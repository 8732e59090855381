"""Files of a web server, read from any byte on, with every answer checked.

An answer counts only if it is the range that was asked for, to the byte: status, Content-Range, length and type tell it
from an error page, a shortened body, and the whole file of a server without ranges. Nothing is decoded on the way.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import orjson
import requests
import urllib3

from data.errors import DataError
from data.fetch.answer import BETWEEN_MARKS, HTTP_DATE, Answer, NoRangesError, Piece, changed_error, is_same_version
from data.fetch.background import run_all
from data.fetch.connections import MAX_CONNECTIONS, KnownRequests, unreachable_reason
from data.fetch.credentials import VARIABLE
from data.fetch.retry import TransientError, is_attended, retried

CHUNK_BYTES = 1 << 20
TIMEOUTS = (10.0, 30.0)  # seconds to connect, and between two pieces of an answer
RANGE_TIMEOUTS = (10.0, 15.0)  # the same for a range, which is small
SLOW_SECONDS = 60.0  # of waiting, in which an answer has to bring
SLOW_BYTES = 60_000  # that many: a slower one is given up
TRANSIENT = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
LEADS_NOWHERE = (
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.MissingSchema,
    requests.TooManyRedirects,
)
SHA256 = re.compile(r"[0-9a-f]{64}")
MAX_FILE_BYTES = 1 << 62
MAX_MANIFEST_BYTES = 1 << 30


class UnreachableError(TransientError):
    """No connection to a host could be made."""


class NoRangeError(DataError):
    """A server says that a file has no byte of the range that was asked for."""


class WebFolder:
    """The files below an http(s) prefix; a `data.fetch.remote.Remote`."""

    is_pinned = False

    def __init__(self, root: str, url_of: Callable[[str], str] | None = None, headers: Mapping[str, str] | None = None):
        """Asks nothing yet. `url_of` gives the address of a file by name, if it is not `root/name`."""
        self.root = root
        self._url_of = url_of
        self._headers = dict(headers or {})
        self._known = KnownRequests()
        self._is_reached = False

    def listing(self, names: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
        """Returns size and mark (ETag and Last-Modified) of the named files; without names, of all in manifest.json.

        Raises DataError for a file that is not there or stays a web page, and for a server without a manifest.
        """
        if names is None:
            return self._manifest()
        first = [self._describe(name) for name in names[:1]]  # alone: what is wrong with the place is said once
        return dict(zip(names, first + run_all(self._describe, names[1:], MAX_CONNECTIONS), strict=True))

    def read(self, name: str, start: int, num_bytes: int, etag: str | None = None) -> Answer:
        """Returns the bytes from `start` on, or from 0 if the server has no ranges, up to the end.

        Raises TransientError for what may be better the next time, and DataError for what will not, such as a file that
        no longer has this `etag`.
        """
        url = self.url(name)
        asked = {"Range": f"bytes={start}-"} if num_bytes else {}  # an empty file has no range
        response = self._ask("GET", url, {**asked, **_condition(etag)})
        found = _checked_mark(response, etag, url)
        kind = response.headers.get("Content-Type", "unknown type")
        if response.status == HTTPStatus.PARTIAL_CONTENT:
            extent = response.headers.get("Content-Range", "")
            is_valid = re.fullmatch(rf"bytes {start}-{num_bytes - 1}/({num_bytes}|\*)", extent) is not None
        else:
            start = 0
            extent = f"{response.headers.get('Content-Length', num_bytes)} bytes"
            is_valid = extent == f"{num_bytes} bytes"
        if not is_valid or _is_page(response):
            response.close()
            raise TransientError(f"{url} answered with {extent} ({kind}) where {num_bytes:,} bytes are expected")
        return Answer(start, _body(response, url), found)

    def read_range(self, name: str, start: int, stop: int, num_bytes: int, etag: str | None = None) -> Piece:
        """Returns the bytes from `start` up to `stop`; raises NoRangesError for an answer with the whole file.

        Raises TransientError and DataError as `read` does.
        """
        url = self.url(name)
        response = self._ask("GET", url, {"Range": f"bytes={start}-{stop - 1}", **_condition(etag)}, RANGE_TIMEOUTS)
        found = _checked_mark(response, etag, url)
        kind = response.headers.get("Content-Type", "unknown type")
        extent = response.headers.get("Content-Range", f"{response.headers.get('Content-Length', 'some')} bytes")
        if response.status == HTTPStatus.OK and extent == f"{num_bytes} bytes" and not _is_page(response):
            response.close()
            raise NoRangesError(f"{url} is sent whole where a range of it is asked for")
        asked = f"bytes {start}-{stop - 1}/"
        if extent not in (f"{asked}{num_bytes}", f"{asked}*") or _is_page(response):
            response.close()
            raise TransientError(
                f"{url} answered with {extent} ({kind}) where bytes {start}-{stop - 1} of {num_bytes:,} are expected"
            )
        return Piece(_whole_body(response, url, stop - start, stop - start), found)

    def url(self, name: str) -> str:
        """Returns the address of a file."""
        return self._url_of(name) if self._url_of else f"{self.root.rstrip('/')}/{quote(name)}"

    def _manifest(self) -> dict[str, dict[str, Any]]:
        url = self.url("manifest.json")
        try:
            content = retried(lambda: _whole_body(self._ask_for_file("GET", url), url, 0, MAX_MANIFEST_BYTES))
            return {name: _checked_entry(name, entry) for name, entry in orjson.loads(content)["files"].items()}
        except (DataError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{self.root} cannot be searched, a web server lists no files and this one has no valid manifest.json "
                f"({error}); name each file without wildcards"
            ) from error

    def _describe(self, name: str) -> dict[str, Any]:
        url = self.url(name)
        response = retried(lambda: self._ask_for_file("HEAD", url))
        response.drain_conn()  # which has no body, and gives the connection back
        headers = response.headers
        length = headers.get("Content-Length", "")
        if length == "0":  # of an empty file, or of a server that says nothing about sizes to HEAD
            length = retried(lambda: self._length_by_range(url))
        if not re.fullmatch("[0-9]{1,18}", length):
            raise DataError(
                f"{url} has no stated length to check a download by (Content-Length: {length or 'none'}); fetch it by "
                "hand to a local data.root"
            )
        return {"bytes": int(length), "etag": _mark_of(headers)}

    def _length_by_range(self, url: str) -> str:
        """Returns the size that an answer to a range states."""
        try:
            response = self._ask("GET", url, {"Range": "bytes=0-0"})
        except NoRangeError:
            return "0"
        response.close()
        if _is_page(response):
            raise TransientError(f"{url} answers with a web page where a data file is expected")
        _, _, size = response.headers.get("Content-Range", "").rpartition("/")
        return size or response.headers.get("Content-Length", "")

    def _ask_for_file(self, method: str, url: str) -> urllib3.BaseHTTPResponse:
        """Returns an answer that is no web page: a network that wants a login answers any request with one.

        To a person, raises DataError for a host that cannot be reached and never has been: its address is wrong, or
        all are.
        """
        try:
            response = self._ask(method, url, {})
        except UnreachableError as error:
            if self._is_reached or not is_attended():
                raise
            raise DataError(
                f"{error}; correct the address, or connect this machine to the network (its proxy is what "
                "HTTP_PROXY or HTTPS_PROXY names), and type the same again"
            ) from error
        if _is_page(response):
            response.close()
            raise TransientError(
                f"{url} answers with a web page where a data file is expected: correct data.root or the name of the "
                "file, or log in to the network if it asks for that"
            )
        return response

    def _ask(
        self, method: str, url: str, headers: Mapping[str, str], timeout: tuple[float, float] = TIMEOUTS
    ) -> urllib3.BaseHTTPResponse:
        try:
            response = self._known.send(method, url, self._headers, {"Accept-Encoding": "identity", **headers}, timeout)
        except LEADS_NOWHERE as error:
            raise DataError(f"{url} leads nowhere ({error}); correct data.root or the name of the file") from error
        except (urllib3.exceptions.HTTPError, OSError) as error:  # which requests' errors are, too
            if reason := unreachable_reason(error):
                raise UnreachableError(f"{url} cannot be reached ({reason})") from error
            raise TransientError(f"{url} cannot be reached ({type(error).__name__})") from error
        self._is_reached = True
        status = response.status
        if status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            return response
        response.close()
        answer = f"{url} answered {status} {response.reason}"
        if status in TRANSIENT or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            wish = response.headers.get("Retry-After", "")
            raise TransientError(answer, float(wish) if wish.isdecimal() else None)
        if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise NoRangeError(f"{answer}; delete .listing.json in the folder it is fetched to, if the file changed")
        if status == HTTPStatus.UNAUTHORIZED:
            raise DataError(
                f"{answer}; give user and password in ~/.netrc, or as https://user:password@host in the environment "
                f"variable {VARIABLE}"
            )
        raise DataError(f"{answer}; correct data.root, the name of the file, or your access to it")


def _condition(etag: str | None) -> dict[str, str]:
    """Returns the header that asks for a range of this version; a weak mark does not stand for the same bytes."""
    first = (etag or "").split(BETWEEN_MARKS)[0]
    return {"If-Range": first} if first.startswith('"') or HTTP_DATE.match(first) else {}


def _checked_mark(response: urllib3.BaseHTTPResponse, etag: str | None, url: str) -> str | None:
    """Returns the mark of an answer; None if it has none in common with `etag`. Raises ChangedError if they differ."""
    found = _mark_of(response.headers)
    if not etag or not found:
        return found
    is_same = is_same_version(etag, found)
    if is_same is False:
        response.close()
        raise changed_error(url)
    return etag if is_same else None


def _mark_of(headers: Mapping[str, str]) -> str | None:
    """Returns what tells versions of a file apart: ETag and Last-Modified, or the one that there is.

    Both, because a server may give its ETag for a file and not for a range of it.
    """
    return BETWEEN_MARKS.join(mark for key in ("ETag", "Last-Modified") if (mark := headers.get(key))) or None


def _is_page(response: urllib3.BaseHTTPResponse) -> bool:
    return response.headers.get("Content-Type", "").lower().startswith(("text/html", "application/xhtml"))


def _checked_entry(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    num_bytes, sha256, etag = entry["bytes"], entry.get("sha256"), entry.get("etag")
    if type(num_bytes) is not int or not 0 <= num_bytes < MAX_FILE_BYTES:
        raise ValueError(f"{name!r} has bytes {num_bytes!r}")
    if sha256 is not None and not (isinstance(sha256, str) and SHA256.fullmatch(sha256)):
        raise ValueError(f"{name!r} has sha256 {sha256!r}")
    if etag is not None and not isinstance(etag, str):
        raise ValueError(f"{name!r} has etag {etag!r}")
    return entry


def _whole_body(response: urllib3.BaseHTTPResponse, url: str, least: int, most: int) -> bytes:
    """Returns all bytes of an answer; raises TransientError where they are fewer or more, without reading on."""
    chunks, size = list[bytes](), 0
    for chunk in _body(response, url):
        chunks.append(chunk)
        size += len(chunk)
        if size > most:
            response.close()
            raise TransientError(f"{url} sends more than {most:,} bytes")
    if size < least:
        raise TransientError(f"{url} sent {size:,} of {least:,} bytes")
    return b"".join(chunks)


def _body(response: urllib3.BaseHTTPResponse, url: str) -> Iterator[bytes]:
    """Yields the bytes of an answer; raises TransientError where it breaks off, or keeps alive with a few bytes."""
    seconds, size = 0.0, 0
    try:
        with response:
            while True:
                start = time.monotonic()
                chunk = response.read1(CHUNK_BYTES, decode_content=False)  # what came before it broke is kept
                seconds, size = seconds + time.monotonic() - start, size + len(chunk)
                if not chunk:
                    return
                if seconds > SLOW_SECONDS:
                    if size < SLOW_BYTES:
                        raise TransientError(f"{url} sent {size:,} bytes in {seconds:.0f} s")
                    seconds, size = 0.0, 0
                yield chunk
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise TransientError(f"{url} broke off ({type(error).__name__})") from error
