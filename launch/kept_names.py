"""The name of a member of a sweep stays the same when the sweep is extended by a further key, also after a start.

A name lists the values that its sweep varies: `sweep=schemes` trains `demo-positions_rope`, and with `seed=42,43` the
same run, whose seed is 42 without being asked, would be `demo-positions_rope-seed_42`. So a member for which there is
no folder takes the name of one whose name begins alike and whose config differs in nothing that a run learns from, nor
in a key that this sweep varies.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from report.comparison import differing, flat
from report.run_folder import RunFiles
from train.compose.sweep import Member
from train.run_folder import RunFolder


def with_kept_names(members: Sequence[Member]) -> list[Member]:
    """Returns the members, renamed where another folder has the run of one already."""
    absent = [member for member in members if not _has_config(RunFolder.of(member.config))]
    taken = {member.config.name for member in members} - {member.config.name for member in absent}
    known = {name: config for name, config in _configs(absent) if name not in taken}
    renamed: dict[str, Member] = {}
    for member in absent if known else []:
        now = flat(member.config.as_plain())
        if name := next((name for name, before in known.items() if _is_run_of(member, now, name, before)), None):
            del known[name]
            renamed[member.config.name] = _renamed(member, name)
    return [renamed.get(member.config.name, member) for member in members]


def _has_config(files: RunFiles) -> bool:
    return files.config.is_file() or files.slurm_config.is_file()


def _configs(members: Sequence[Member]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the folders whose names begin as those of the members, the shortest name first, and their configs."""
    roots = {Path(member.config.run_root) for member in members}
    prefixes = tuple(f"{member.base}-" for member in members)
    paths = [path for root in roots if root.is_dir() for path in root.iterdir() if path.name.startswith(prefixes)]
    for path in sorted(paths, key=lambda path: (len(path.name), path.name)):
        if config := RunFiles(path).read_config() or RunFiles(path).read_submitted_config():
            yield path.name, flat(config)


def _is_run_of(member: Member, now: Mapping[str, Any], name: str, before: Mapping[str, Any]) -> bool:
    if not name.startswith(f"{member.base}-") or differing([before, now]):
        return False
    varied = tuple(f"{key.replace('/', '.')}." for key in member.swept)
    return all(before.get(key) == now.get(key) for key in {*before, *now} if f"{key}.".startswith(varied))


def _renamed(member: Member, name: str) -> Member:
    own = f"name={member.config.name}"
    arguments = [f"name={name}" if argument == own else argument for argument in member.arguments]
    return replace(member, config=replace(member.config, name=name), arguments=arguments)
