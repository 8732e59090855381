"""What a detector says: that something is wrong with the positions, or that it no longer is."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Alert:
    """One finding, in one sentence."""

    event: str
    """`alert`, or `recovery` when what was found is over."""
    kind: str
    """The detector's name: collapse, dead_gradient, ..."""
    where: str
    """Layers and heads: "layer 7 head 3", "layer 9", "model"."""
    since: int
    """Step of the first reading that showed it."""
    message: str
    """Where, since when, how bad, what to try."""

    @property
    def is_new(self) -> bool:
        """Whether it begins, rather than ends, an episode."""
        return self.event == "alert"

    def as_plain(self) -> dict[str, Any]:
        """The fields of its line in events.jsonl, `event` aside."""
        return {name: value for name, value in asdict(self).items() if name != "event"}
