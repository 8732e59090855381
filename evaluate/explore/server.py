"""The explorer's page on this machine alone: an HTTP server of the standard library on 127.0.0.1.

Any page that a browser has open can send requests to this machine. So a request is answered only if it names this
machine (a name that someone has pointed at 127.0.0.1 is refused), if it does not come from another page, and, where it
asks for something to be computed, if it is JSON by its content type, which another page cannot send without asking.
"""

import contextlib
import json
import socketserver
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import urlsplit

from common.errors import UserError
from evaluate.errors import EvaluateError
from evaluate.explore.explorer import ClosedError, Explorer

ADDRESS = "127.0.0.1"
PORT = 8642
MAX_BODY = 8 * 2**20  # bytes of a request
OWN_NAMES = {ADDRESS, "localhost"}
ARGUMENTS: dict[str, dict[str, type]] = {
    "/read": {"text": str},
    "/attention": {"text": str, "model": int, "layer": int, "token": int},
}
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class RefusedError(Exception):
    """A request that is not answered: its status, and one line that says why."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Server(ThreadingHTTPServer):
    """Serves one page and the explorer's answers. Raises EvaluateError if the port is taken."""

    daemon_threads = True

    def __init__(self, explorer: Explorer, page: str, port: int = PORT) -> None:
        self.explorer = explorer
        self.page = page.encode()
        try:
            super().__init__((ADDRESS, port), Handler)
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else "no such port"
            raise EvaluateError(f"port {port} cannot be used ({reason}): give --port N, or 0 for any") from error

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://{ADDRESS}:{self.server_address[1]}/"

    def server_bind(self) -> None:
        """Binds the port; looks no name up, which takes seconds on some machines."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Prints an error that is not the client's leaving."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError | ClosedError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Server
    timeout: ClassVar[float] = 60.0  # seconds for which a client may send nothing
    server_version, sys_version = "explorer", ""

    def do_GET(self) -> None:
        """Answers with the page."""
        with self._refusals():
            self._check_sender()
            if self.path != "/":
                raise RefusedError(HTTPStatus.NOT_FOUND, f"there is no {self.path}")
            self._send(HTTPStatus.OK, "text/html; charset=utf-8", self.server.page)

    def do_POST(self) -> None:
        """Answers with positions or attention."""
        with self._refusals():
            self._check_sender()
            if self.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
                raise RefusedError(HTTPStatus.FORBIDDEN, "requests of other pages are not answered")
            if self.path not in ARGUMENTS:
                raise RefusedError(HTTPStatus.NOT_FOUND, f"there is no {self.path}")
            arguments = self._arguments(ARGUMENTS[self.path])
            explorer = self.server.explorer
            try:
                answer = (explorer.read if self.path == "/read" else explorer.attention)(**arguments)
            except UserError as error:
                raise RefusedError(HTTPStatus.BAD_REQUEST, str(error)) from error
            except (RuntimeError, MemoryError) as error:  # no memory for this text, on a GPU or here
                reason = str(error).partition("\n")[0] or "out of memory"
                raise RefusedError(HTTPStatus.INTERNAL_SERVER_ERROR, reason) from error
            self._send(HTTPStatus.OK, "application/octet-stream", answer)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base names it
        """Prints nothing."""

    @contextlib.contextmanager
    def _refusals(self) -> Any:
        try:
            yield
        except RefusedError as refused:
            self.close_connection = True  # a body that was not read is not to be taken for a request
            self._send(refused.status, "text/plain; charset=utf-8", str(refused).encode())

    def _check_sender(self) -> None:
        """Raises RefusedError for a request that another page, or another name for this machine, has brought about."""
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        try:
            name = urlsplit(f"//{host}").hostname
        except ValueError:
            name = None
        if name not in OWN_NAMES:
            raise RefusedError(HTTPStatus.FORBIDDEN, f"this is {ADDRESS}, not {host or 'a host without a name'}")
        if origin is not None and origin != f"http://{host}":
            raise RefusedError(HTTPStatus.FORBIDDEN, f"requests of {origin} are not answered")

    def _arguments(self, types: dict[str, type]) -> dict[str, Any]:
        """Returns what the body says, of these types. Raises RefusedError."""
        if self.headers.get_content_type() != "application/json":
            raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the content type must be application/json")
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            raise RefusedError(HTTPStatus.LENGTH_REQUIRED, "Content-Length must say how many bytes there are")
        if int(length[:20]) > MAX_BODY:
            raise RefusedError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the request has {length} bytes, more than {MAX_BODY}"
            )
        try:
            said = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError) as error:
            raise RefusedError(HTTPStatus.BAD_REQUEST, "the request is not JSON") from error
        if not isinstance(said, dict) or said.keys() != types.keys():
            raise RefusedError(HTTPStatus.BAD_REQUEST, f"the request must be an object of {', '.join(types)}")
        for name, kind in types.items():
            if type(said[name]) is not kind:  # True is no number here
                raise RefusedError(HTTPStatus.BAD_REQUEST, f"{name} must be of type {kind.__name__}")
        try:
            said["text"].encode()
        except UnicodeEncodeError as error:  # half of a pair, "\ud800"
            raise RefusedError(HTTPStatus.BAD_REQUEST, "the text is not Unicode") from error
        return said

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
