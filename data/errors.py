"""The error of the `data` package."""

import contextlib
from collections.abc import Iterator

from common.errors import UserError


class DataError(UserError):
    """Data, or a setting of `data`, that cannot be used; the message says what to change."""


@contextlib.contextmanager
def explained_read_errors() -> Iterator[None]:
    """Raises DataError instead of OSError: for a file or a mount that is gone while it is read."""
    try:
        yield
    except OSError as error:
        raise DataError(f"the data cannot be read: {error}") from error
