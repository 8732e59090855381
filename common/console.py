"""Standard output and error of a process that works on after their reader has gone, as in `... | head`."""

import io
import os
import sys


class _Stream(io.FileIO):
    """A standard stream; what is written after its reader has gone is dropped."""

    def write(self, data: object, /) -> int:
        """Returns how many bytes were written."""
        try:
            return super().write(data)  # type: ignore[arg-type]
        except BrokenPipeError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            return super().write(data)  # type: ignore[arg-type]


def keep_on_without_reader() -> None:
    """Makes prints of this process succeed after the reader of its output has gone."""
    for name in ("stdout", "stderr"):
        old = getattr(sys, name)
        old.flush()
        stream = io.BufferedWriter(_Stream(old.fileno(), "w", closefd=False))
        setattr(sys, name, io.TextIOWrapper(stream, old.encoding, old.errors, line_buffering=True))
