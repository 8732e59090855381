"""The errors of this room that a user can cause or repair: each message is a sentence that says what to change."""


class TrainError(ValueError):
    """A setting, a folder or a checkpoint that training cannot go on with."""


class SaveError(TrainError):
    """A checkpoint that could not be written; those that were published before are as they were."""
