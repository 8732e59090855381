"""The error of the `evaluate` package."""

from common.errors import UserError


class EvaluateError(UserError):
    """A setting, task or result that cannot be used; the message says what to change."""
