"""The one exception of this room: what the user can put right, in one sentence that says how."""


class DataError(ValueError):
    """A mistake in the data or its configuration."""
