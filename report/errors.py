"""The errors of the `report` package."""

from common.errors import UserError


class ReportError(UserError):
    """A run folder that there is nothing to report of, or a page that cannot be written."""
