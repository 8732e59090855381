"""The error of the `model` package."""

from common.errors import UserError


class ModelError(UserError):
    """A model, its positions or its weights cannot be what was asked; the message says what to change."""


def require(condition: bool, message: str) -> None:
    """Raises ModelError with this message unless the condition holds."""
    if not condition:
        raise ModelError(message)
