"""How well the position watch tells healthy runs from injured ones.

    python -m benchmarks.watch_detectors                  record what is missing (two hours of CPU), print the tables
    python -m benchmarks.watch_detectors --half tuning    only the half on which the detectors were tuned
    python -m benchmarks.watch_detectors --half updates   only the runs that came last
    python -m benchmarks.watch_detectors --recordings DIR    keep the readings there; default: runs/watch-detectors

Each run trains a small model with the real optimizer, engine and meter, on made-up or real text; its readings are kept.
Then the detectors see the readings, which takes seconds, and other rules are judged without training. An injured run is
caught if an alert about a damaged place is open within so many readings of the damage. A wrong alert is an alert before
the damage, or about a place that is not damaged.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.detectors.cases import ALL_FAILURES, INTERVAL, SIZES, Case, Half, Scope, all_cases
from benchmarks.detectors.recording import Recorder, path_of, read
from benchmarks.figures import Figure, Origin, report
from train.distributed import Ranks, leave
from train.watch.alert import Place
from train.watch.detectors import Detectors
from train.watch.reading import Reading

TITLES = {
    Half.tuning: "### Tuning half",
    Half.judging: "### Judging half",
    Half.fresh: "### Fresh runs",
    Half.again: "### Fresh runs, again",
    Half.last: "### Runs for fading layers and layers below a wrong one",
    Half.updates: "### Runs for the check of updates",
}


@dataclass(frozen=True)
class Outcome:
    """What the detectors said about one run."""

    kinds: tuple[str, ...]
    """Of the alerts about damaged places, in the order in which they began."""
    readings: int | None
    """Readings from the damage to the first of them; None: never said."""
    wrong: tuple[str, ...]
    """Wrong alerts: kind, place and step."""


def judged(case: Case, readings: Sequence[Reading]) -> Outcome:
    """Returns what fresh detectors say about the readings of a run."""
    warmup = case.steps // 10 if case.schedule == "warm" else 0
    detectors = Detectors(SIZES[case.size].length, warmup)
    kinds: list[str] = []
    wrong: list[str] = []
    first: int | None = None
    num_since, known = 0, set()
    for reading in readings:
        is_damaged = case.failure is not None and reading.step > case.breaks - 1
        # Most of the reading of the step of the damage is taken before it.
        num_since += is_damaged and reading.step > case.breaks
        detectors.observe(reading)
        for kind, place in detectors.open_episodes:
            if (kind, place) in known:
                continue
            known.add((kind, place))
            if is_damaged and _is_damaged(case, place):
                kinds += [kind] if kind not in kinds else []
                first = num_since if first is None else first
            else:
                wrong.append(f"{kind} {'.'.join(map(str, place)) or 'model'} at step {reading.step}")
    return Outcome(tuple(kinds), first, tuple(wrong))


def _is_damaged(case: Case, place: Place) -> bool:
    assert case.failure is not None
    scope = ALL_FAILURES[case.failure].scope
    if scope is Scope.model:
        return True
    if scope is Scope.layer or len(place) < 2:
        return place[:1] == (case.layer,)
    return place == (case.layer, case.head)


def is_in_time(case: Case, outcome: Outcome) -> bool:
    """Returns whether the damage was said as soon as its failure asks."""
    assert case.failure is not None
    return outcome.readings is not None and outcome.readings <= ALL_FAILURES[case.failure].soon


def described(case: Case) -> str:
    """Returns the size, the rate and, if it is an unusual one, the interval of a run."""
    return f"{case.size}, {case.lr:g}" + (f", every {case.interval}" if case.interval != INTERVAL else "")


def table(half: Half, folder: Path) -> list[str]:
    """Returns the lines of the table of one half, in Markdown."""
    cases = [case for case in all_cases() if case.half is half and path_of(case, folder).exists()]
    outcomes = {case: judged(case, read(case, folder)) for case in cases}
    hurt = [case for case in cases if case.failure is not None]
    well = [case for case in cases if case.failure is None]
    caught = [case for case in hurt if outcomes[case].readings is not None]
    in_time = [case for case in hurt if is_in_time(case, outcomes[case])]
    alarmed = [case for case in well if outcomes[case].wrong]
    beside = [case for case in hurt if outcomes[case].wrong]
    title = TITLES[half].strip("# ")
    report(
        Figure(f"{title}: injured runs caught", len(caught), at_least=len(hurt), origin=Origin.counted),
        Figure(f"{title}: healthy runs with an alarm", len(alarmed), at_most=0, origin=Origin.counted),
    )
    lines = [
        TITLES[half],
        "",
        f"{len(hurt)} injured runs: {len(caught)} caught, {len(in_time)} in time, {len(beside)} with a wrong "
        f"alert. {len(well)} healthy runs: {len(alarmed)} with an alarm.",
        "",
        "| failure | run | said within (allowed) | as | wrong alerts |",
        "|---|---|---|---|---|",
    ]
    for case in hurt:
        outcome, soon = outcomes[case], ALL_FAILURES[str(case.failure)].soon
        said = f"{outcome.readings or 'never'} ({soon})" + ("" if is_in_time(case, outcome) else " **late**")
        run = f"{described(case)}, layer {case.layer}"
        lines.append(f"| {case.failure} | {run} | {said} | {', '.join(outcome.kinds)} | {', '.join(outcome.wrong)} |")
    lines += ["", "| healthy runs | number | steps | alarms |", "|---|---|---|---|"]
    for name in dict.fromkeys(described(case) for case in well):
        own = [case for case in well if described(case) == name]
        alarms = "; ".join(f"{case.name}: {', '.join(outcomes[case].wrong)}" for case in own if outcomes[case].wrong)
        lines.append(f"| {name} | {len(own)} | {', '.join(str(case.steps) for case in own)} | {alarms or 0} |")
    return lines


def main() -> None:
    """Records the runs that are missing, and prints the table of one half or all."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.watch_detectors", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--half", choices=[half.value for half in Half], help="default: all")
    parser.add_argument("--recordings", type=Path, default=Path("runs/watch-detectors"), help="folder of the readings")
    arguments = parser.parse_args()
    halves = [Half(arguments.half)] if arguments.half else list(Half)
    arguments.recordings.mkdir(parents=True, exist_ok=True)
    missing = [case for case in all_cases() if case.half in halves and not path_of(case, arguments.recordings).exists()]
    if missing:
        ranks = Ranks()
        ranks.join()
        recorder = Recorder(ranks, arguments.recordings)
        for number, case in enumerate(missing, 1):
            print(f"recording {number} of {len(missing)}: {case.name}", flush=True)
            recorder.record(case)
    for half in halves:
        print("\n".join(["", *table(half, arguments.recordings)]))


if __name__ == "__main__":
    main()
    leave(0)
