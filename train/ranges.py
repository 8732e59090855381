"""The check that numbers of a config are in range."""

import math

from train.errors import TrainError


def check_at_least(group: str, config: object, /, **lowest: float) -> None:
    """Raises TrainError unless each named field of `config` is null or a finite number of at least its bound.

    The message names the key as the command line has it, `group.field`; an empty `group` stands for the root.
    """
    for name, bound in lowest.items():
        value = getattr(config, name)
        if value is not None and not bound <= value < math.inf:  # a NaN fails too
            key = f"{group}.{name}" if group else name
            raise TrainError(f"{key}={value} is out of range: it must be a number of at least {bound}")
