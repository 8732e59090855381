"""The next point of a search: a pure function of the trials so far, the seed and the number of the trial.

So it does not matter which launcher asks, and a search that is cut off goes on as it would have. Optuna's sampler sees
a copy of the trials in memory.
"""

import itertools
from collections.abc import Mapping, Sequence

from optuna import create_study
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from train.compose.search import Point, Range, Search
from train.launch_config import Sampler

ATTEMPTS = 20  # points drawn again because they were tried; then the first that was not is taken


def distributions(search: Search) -> dict[str, BaseDistribution]:
    """Returns the space as Optuna has it."""
    found: dict[str, BaseDistribution] = {}
    for key, parameter in search.space.items():
        if not isinstance(parameter, Range):
            found[key] = CategoricalDistribution(parameter.ends)
        elif parameter.is_whole:
            whole = int(parameter.low), int(parameter.high)
            found[key] = IntDistribution(*whole, log=parameter.log, step=int(parameter.step or 1))
        else:
            found[key] = FloatDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)
    return found


def next_point(search: Search, trials: Sequence[FrozenTrial]) -> Point:
    """Returns the point of the trial after `trials`: none that was tried, of which `Search.size` has to leave one."""
    tried = [trial.params for trial in trials]
    untried = [point for point in search.first if not _is_in(point, tried)]
    if untried:
        return untried[0]
    for attempt in range(ATTEMPTS):
        study = create_study(sampler=_sampler(search, len(trials) * ATTEMPTS + attempt))
        study.add_trials([trial for trial in trials if trial.state is not TrialState.FAIL])
        point = study.ask(distributions(search)).params
        if not _is_in(point, tried):
            return {key: point[key] for key in search.space}
    values = [parameter.values or [] for parameter in search.space.values()]
    every = (dict(zip(search.space, chosen, strict=True)) for chosen in itertools.product(*values))
    return next(point for point in every if not _is_in(point, tried))


def _sampler(search: Search, number: int) -> BaseSampler:
    settings = search.config.launch.search
    seed = (settings.seed * 1_000_003 + number) % 2**32
    if settings.sampler is Sampler.random:
        return RandomSampler(seed=seed)
    return TPESampler(seed=seed, constant_liar=True)  # points that are being trained count too


def _is_in(point: Mapping[str, object], points: Sequence[Mapping[str, object]]) -> bool:
    return any(point == other for other in points)
