"""Names of models on the Hugging Face hub."""

import re

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+@[\w./-]+")


def is_hub_id(source: str) -> bool:
    """Returns whether a text is `OWNER/NAME@REVISION`."""
    return HUB_ID.fullmatch(source) is not None
