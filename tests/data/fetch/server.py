"""A real web server for tests: a folder with byte ranges, a hub, and faults that a test sets."""

import fcntl
import hashlib
import json
import socket
import struct
import sys
import termios
import threading
import time
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

Fault = Callable[["Handler", bytes, int], None]
HANG_SECONDS = 600.0  # after which a wait ends: only to end a hang
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FileServer(ThreadingHTTPServer):
    """Serves `folder`; the next GETs of a path go to its `faults`, one each, before the file is sent."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.faults: dict[str, list[Fault]] = {}
        self.after: dict[str, bytes] = {}  # what a file is replaced by during its next fault
        self.heads: dict[str, list[Fault]] = {}  # the same for its next HEADs
        self.marks = ["ETag", "Last-Modified"]  # that tell versions of a file apart
        self.listed_marks: list[str] | None = None  # the same of HEADs, if they are others
        self.lengths: dict[str, str] = {}  # that HEAD says
        self.login: str | None = None  # USER:PASSWORD that it asks for
        self.seen: list[tuple[str, str, str | None]] = []
        self.conditions: list[str | None] = []
        self.logins: list[str | None] = []
        self.num_connections = 0
        self.num_endless = 0  # bytes that `endless` has begun to send
        self.url = f"http://127.0.0.1:{self.server_port}"

    def process_request(self, request: Any, client_address: Any) -> None:
        """Counts connections."""
        self.num_connections += 1
        super().process_request(request, client_address)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that disconnects is no error: some tests do so on purpose."""

    def starts(self, name: str) -> list[int]:
        """The byte offsets from which a file was asked for, in order."""
        ranges = [extent for method, path, extent in self.seen if method == "GET" and path == name]
        return [int((extent or "bytes=0-").removeprefix("bytes=").split("-")[0]) for extent in ranges]


class Handler(BaseHTTPRequestHandler):
    server: FileServer
    protocol_version = "HTTP/1.1"
    stop = 0  # the byte after the last of the range that was asked for

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        login = self.server.login
        if login and self.headers.get("Authorization") != f"Basic {b64encode(login.encode()).decode()}":
            self.send(401, b"who are you", {"WWW-Authenticate": "Basic"})
            return
        path = unquote(urlsplit(self.path).path)
        if path.startswith(("/api/datasets/", "/api/models/")):
            self.answer_hub(path.split("/", 3)[3])
            return
        name = path.split(f"/resolve/{COMMIT}/")[-1].lstrip("/")
        self.server.seen.append((self.command, name, self.headers.get("Range")))
        if name.startswith(("loop/", "ftp/")):
            self.send(302, b"", {"Location": self.path if name.startswith("loop") else "ftp://x/y"})
            return
        if self.command == "GET":
            self.server.conditions.append(self.headers.get("If-Range"))
            self.server.logins.append(self.headers.get("Authorization"))
        elif name in self.server.lengths:
            self.send(200, b"", {"Content-Length": self.server.lengths[name]})
            return
        file = self.server.folder / name
        if not file.is_file():
            self.send(404, b"no such file", {})
            return
        content = file.read_bytes()
        if "Range" in self.headers and not content:
            self.send(416, b"", {"Content-Range": "bytes */0"})
            return
        first, _, last = (self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")
        start, self.stop = int(first), min(int(last) + 1 if last else len(content), len(content))
        faults = (self.server.faults if self.command == "GET" else self.server.heads).get(name)
        if faults:
            replacement = self.server.after.pop(name, None)
            if replacement is not None:
                file.write_bytes(replacement)
            faults.pop(0)(self, content, start)
        else:
            self.send_range(content, start)

    def answer_hub(self, path: str) -> None:
        """Which commit a revision is, and the tree of that commit."""
        if "/revision/" in path:
            answer: object = {"id": "a/b", "sha": COMMIT, "siblings": []}
        else:
            files = sorted(file for file in self.server.folder.rglob("*") if file.is_file())
            answer = [self.describe(file) for file in files]
        self.send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def describe(self, file: Path) -> dict[str, object]:
        name, size = file.relative_to(self.server.folder).as_posix(), file.stat().st_size
        lfs = {"oid": hashlib.sha256(file.read_bytes()).hexdigest(), "size": size, "pointerSize": 134}
        return {"type": "file", "path": name, "oid": "0" * 40, "size": size, "lfs": lfs}

    def send_range(self, content: bytes, start: int, piece: int = 1 << 20, pause: float = 0.0) -> None:
        """The file from `start` on, as a range if one was asked for."""
        headers = {"Content-Type": "application/octet-stream", **self.marks_of(content)}
        if "Range" in self.headers:
            headers["Content-Range"] = f"bytes {start}-{self.stop - 1}/{len(content)}"
        body = content[start : self.stop]
        self.send(206 if "Range" in self.headers else 200, body, headers, piece, pause)

    def marks_of(self, content: bytes) -> dict[str, str]:
        """The headers that tell this content from another."""
        known = {"ETag": etag_of(content), "Last-Modified": formatdate(zlib.crc32(content), usegmt=True)}
        names = self.server.marks if self.command == "GET" else self.server.listed_marks or self.server.marks
        return {name: known[name] for name in names}

    def send(self, status: int, body: bytes, headers: dict[str, str], piece: int = 1 << 20, pause: float = 0.0) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            for at in range(0, len(body), piece):
                self.wfile.write(body[at : at + piece])
                time.sleep(pause)

    def log_message(self, *arguments: object) -> None:
        """Quiet."""


@contextmanager
def serving(folder: Path) -> Iterator[FileServer]:
    """A server of this folder, for as long as the context lasts."""
    server = FileServer(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def serving_one(folder: Path, content: bytes) -> Iterator[FileServer]:
    """A server of a new folder with one file, a.npy."""
    folder.mkdir()
    (folder / "a.npy").write_bytes(content)
    with serving(folder) as server:
        yield server


def etag_of(content: bytes) -> str:
    """A strong validator: another for other content."""
    return f'"{hashlib.sha256(content).hexdigest()[:16]}"'


def status(code: int, **headers: str) -> Fault:
    """An error of the server."""
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return lambda handler, content, start: handler.send(code, b"error", named)


def html_page(handler: Handler, content: bytes, start: int) -> None:
    """What some servers say, under status 200, instead of "not found"."""
    handler.send(200, b"<!DOCTYPE html><html>not here</html>", {"Content-Type": "Text/HTML"})


def same_length_page(handler: Handler, content: bytes, start: int) -> None:
    """A web page that happens to be as long as the file."""
    handler.send(200, b"<html>".ljust(len(content)), {"Content-Type": "text/html; charset=utf-8"})


def whole_file(handler: Handler, content: bytes, start: int) -> None:
    """The answer of a server that knows no ranges."""
    handler.send(200, content, {})


def wrong_range(handler: Handler, content: bytes, start: int) -> None:
    """A range that is shorter than what was asked for, and says so."""
    body = content[start : start + 1000]
    handler.send(206, body, {"Content-Range": f"bytes {start}-{start + len(body) - 1}/{len(content)}"})


def endless(handler: Handler, content: bytes, start: int) -> None:
    """The right range by its headers, and then bytes for as long as they are taken: a quarter of a GiB at most."""
    handler.send_response(206)
    handler.send_header("Content-Range", f"bytes {start}-{handler.stop - 1}/{len(content)}")
    handler.send_header("ETag", etag_of(content))
    handler.send_header("Connection", "close")
    handler.end_headers()
    for _ in range(256):
        handler.server.num_endless += 1 << 20
        handler.wfile.write(bytes(1 << 20))


def other_start(handler: Handler, content: bytes, start: int) -> None:
    """A range from the wrong byte on."""
    handler.send(206, content[1:], {"Content-Range": f"bytes 1-{len(content) - 1}/{len(content)}"})


def send_beginning(handler: Handler, content: bytes, start: int, num_bytes: int) -> None:
    """Sends the headers of the right range, and so many bytes of it."""
    handler.send_response(206)
    handler.send_header("Content-Range", f"bytes {start}-{handler.stop - 1}/{len(content)}")
    handler.send_header("Content-Length", str(handler.stop - start))
    for name, mark in handler.marks_of(content).items():
        handler.send_header(name, mark)
    handler.end_headers()
    handler.wfile.write(content[start : min(start + num_bytes, handler.stop)])


def reset_after(num_bytes: int) -> Fault:
    """Breaks the connection in the middle of the body."""

    def reset(handler: Handler, content: bytes, start: int) -> None:
        send_beginning(handler, content, start, num_bytes)
        while unacknowledged(handler.connection):  # a reset would drop it
            time.sleep(0.001)
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.connection.close()
        handler.close_connection = True

    return reset


def unacknowledged(connection: socket.socket) -> int:
    """Returns how many bytes have not reached the kernel of a connection's other end."""
    return int.from_bytes(fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


def held_after(num_bytes: int, go_on: threading.Event) -> Fault:
    """Sends so many bytes, and then one every second, lest the client gives up, until the test lets it go on."""

    def hold(handler: Handler, content: bytes, start: int) -> None:
        send_beginning(handler, content, start, num_bytes)
        for at in range(start + num_bytes, handler.stop):
            if not go_on.wait(1):
                handler.wfile.write(content[at : at + 1])
        handler.close_connection = True

    return hold


def slowly(piece: int, pause: float) -> Fault:
    """The whole file, a piece at a time."""
    return lambda handler, content, start: handler.send_range(content, start, piece, pause)
