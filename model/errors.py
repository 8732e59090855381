"""The error of the `model` package."""

from common.errors import UserError


class ModelError(UserError):
    """A model, its positions or its weights cannot be what was asked; the message says what to change."""
