"""The one error type of this room: a sentence for the person who can fix it."""


class ModelError(ValueError):
    """A model, its positions or its weights cannot be what was asked; the message says what to change."""
