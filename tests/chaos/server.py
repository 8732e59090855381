"""A web server that fails half of all requests, in every way that a server can."""

import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.data.fetch.server import FileServer, Handler, reset_after, status

MOST_IN_A_ROW = 3  # failures of one file; a download gives up after seven


class HalfHandler(Handler):
    """Answers as `Handler` does, or fails."""

    server: "HalfServer"

    def do_GET(self) -> None:  # noqa: N802
        fault = self.server.next_fault(self.path)
        if fault is None:
            super().do_GET()
        elif fault == "reset" and self.command == "GET":
            content = (self.server.folder / self.path.lstrip("/")).read_bytes()
            reset_after(len(content) // 2)(self, content, 0)
        elif fault == "close":
            self.close_connection = True
        else:
            status(500 if fault == "error" else 503)(self, b"", 0)


class HalfServer(FileServer):
    """Serves `folder`, and counts its answers."""

    def __init__(self, folder: Path, seed: int) -> None:
        super().__init__(folder)
        self.RequestHandlerClass = HalfHandler
        self.num_failed = self.num_answered = 0
        self._rng, self._lock, self._in_a_row = random.Random(seed), threading.Lock(), Counter[str]()

    def next_fault(self, path: str) -> str | None:
        """Returns how the next request fails, or None."""
        with self._lock:
            if self._rng.random() < 0.5 and self._in_a_row[path] < MOST_IN_A_ROW:
                self._in_a_row[path] += 1
                self.num_failed += 1
                return self._rng.choice(["reset", "close", "error", "busy"])
            self._in_a_row[path] = 0
            self.num_answered += 1
            return None


@contextmanager
def failing_half(folder: Path, seed: int) -> Iterator[HalfServer]:
    """A server of this folder, for as long as the context lasts."""
    server = HalfServer(folder, seed)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
