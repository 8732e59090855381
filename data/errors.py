"""The error of the `data` package."""

from common.errors import UserError


class DataError(UserError):
    """Data, or a setting of `data`, that cannot be used; the message says what to change."""
