"""The base of the errors that a user can put right."""


class UserError(ValueError):
    """A setting, file or folder that the program cannot use.

    The message is one line: what is wrong, where, what was expected, what to type. Entry points print it after
    `error: ` and end with exit code 2.
    """
