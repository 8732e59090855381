"""The one error of this room that a user can cause: its message is a sentence that says what to change."""


class TrainError(ValueError):
    """A setting, a folder or a checkpoint that training cannot go on with."""
