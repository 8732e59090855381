"""Answers as the page reads them."""

import json
from typing import Any

import numpy as np


def unpacked(answer: bytes) -> tuple[dict[str, Any], np.ndarray]:
    """The header of an answer, and its numbers."""
    length = int.from_bytes(answer[:4], "little")
    assert length % 4 == 0
    return json.loads(answer[4 : 4 + length]), np.frombuffer(answer[4 + length :], "<f4")
