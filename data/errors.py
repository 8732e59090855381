"""The error of the `data` package."""

from common.errors import UserError


class DataError(UserError):
    """The data or its configuration cannot be used; the message says what to change."""
