"""A download of weights at the start of a run: hours are no hang, as long as bytes arrive."""

import threading
from collections.abc import Callable
from pathlib import Path

from train.distributed import Ranks
from train.huggingface.source import fetch_source

SECONDS = 20.0  # between two looks at what has arrived; far below every limit of the watchdog and of an exchange


def fetch_on_main(source: str, ranks: Ranks, go_on: Callable[[], None], seconds: float = SECONDS) -> Path:
    """Returns the folder of a source, which the main rank fetches if it lies on the hub. All ranks call it.

    They meet every `seconds`, and all call `go_on` where bytes have arrived since. Raises as `fetch_source`, on all.
    """
    fetch = _Fetch(source)
    if ranks.is_main:
        threading.Thread(target=fetch.run, daemon=True, name="fetch").start()
    num_bytes = 0
    while True:
        if ranks.is_main:
            fetch.ended.wait(seconds)
        state = (fetch.ended.is_set(), fetch.num_bytes, fetch.folder, fetch.error)
        has_ended, arrived, folder, error = ranks.gather(state)[0]
        if error is not None:
            raise error
        if has_ended:
            assert folder is not None
            return folder
        if arrived != num_bytes:
            num_bytes = arrived
            go_on()


class _Fetch:
    """One call of `fetch_source`, in a thread."""

    def __init__(self, source: str) -> None:
        self.ended = threading.Event()
        self.num_bytes = 0
        self.folder: Path | None = None
        self.error: BaseException | None = None
        self._source = source

    def run(self) -> None:
        """Fetches, and notes the result or the error."""
        try:
            self.folder = fetch_source(self._source, self._arrived)
        except BaseException as error:
            self.error = error
        self.ended.set()

    def _arrived(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes
