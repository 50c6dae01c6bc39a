"""Single entries of dvc.lock: what a result was made from, and entries taken over as they stand.

    read_entries     a stage's parameters, and the files that it read and wrote
    sources_of       the stages that some files come from, up to the first one
    selected         a dvc.lock with these stages alone
    differing        the stages whose entries are not the same
    merged           a dvc.lock with another's entries

The text of an entry is never written anew: what DVC wrote is what it compares.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import yaml

from mlops.config import flatten
from mlops.locks import LockError, StageRecord, parse_yaml

HEADER = "schema: '2.0'\nstages:\n"


@dataclass(frozen=True, kw_only=True)
class File:
    """`md5` ends with `.dir` if it is a directory's."""

    path: str
    md5: str
    size_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What DVC recorded of a stage; `params` are the values of params.yaml by dotted key."""

    stage: str
    deps: tuple[File, ...]
    params: Mapping[str, Any]
    outs: tuple[File, ...]


def read_entries(text: str) -> dict[str, Entry]:
    """The entries of a dvc.lock by stage; raises `LockError`."""
    entries = {}
    try:
        for name, block in _blocks(text)[1].items():
            ((_, stage),) = msgspec.convert(parse_yaml(block), dict[str, StageRecord]).items()
            entries[name] = Entry(
                stage=name,
                deps=_files(stage.deps),
                params=flatten(stage.params.get("params.yaml", {})),
                outs=_files(stage.outs),
            )
    except (yaml.YAMLError, msgspec.ValidationError, ValueError, RecursionError) as error:
        raise LockError(" ".join(str(error).split())) from None
    return entries


def sources_of(entries: Mapping[str, Entry], wanted: Mapping[str, str]) -> list[str]:
    """The stages that made the files `wanted`, md5 by path, and all that these were made from.

    In the order of `entries`; what no stage made, as your own videos, has none.
    """
    makers = {(out.path, out.md5): entry for entry in entries.values() for out in entry.outs}
    waiting, found = list(wanted.items()), set()
    while waiting:
        entry = makers.get(waiting.pop())
        if entry is not None and entry.stage not in found:
            found.add(entry.stage)
            waiting += [(dep.path, dep.md5) for dep in entry.deps]
    return [name for name in entries if name in found]


def origins(entries: Collection[Entry]) -> list[File]:
    """The files that these stages read and none of them made, each path once."""
    made = {out.path for entry in entries for out in entry.outs}
    read = {dep.path: dep for entry in entries for dep in entry.deps}
    return [dep for path, dep in read.items() if not _is_made(path, made)]


def selected(text: str, stages: Collection[str]) -> str:
    """A dvc.lock with the entries of these stages."""
    blocks = _blocks(text)[1]
    return HEADER + "".join(block for name, block in blocks.items() if name in stages)


def differing(text: str, other: str) -> list[str]:
    """The stages of `other` whose entry `text` does not have as it stands there."""
    ours, theirs = _blocks(text or HEADER)[1], _blocks(other)[1]
    return [name for name in theirs if ours.get(name) != theirs[name]]


def merged(text: str, other: str) -> str:
    """`text` with the entries of `other` in the place of its own, new ones at the end."""
    head, blocks, tail = _blocks(text or HEADER)
    return head + "".join((blocks | _blocks(other)[1]).values()) + tail


def _is_made(path: str, made: Collection[str]) -> bool:
    """Whether it is one of the paths, or lies below one."""
    parts = path.split("/")
    return any("/".join(parts[:depth]) in made for depth in range(1, len(parts) + 1))


def _blocks(text: str) -> tuple[str, dict[str, str], str]:
    """What stands before the stages, the text of each, and what stands after them."""
    head, line, rest = text.partition("stages:\n")
    if not line or not (head == "" or head.endswith("\n")):
        raise LockError("no line 'stages:'")
    end = re.search(r"^(?=\S)", rest, flags=re.MULTILINE)
    stages, tail = (rest[: end.start()], rest[end.start() :]) if end else (rest, "")
    # A stage begins with its name after two spaces.
    blocks = re.split(r"^(?=  [^\s#])", stages, flags=re.MULTILINE)
    named = {
        block.partition(":")[0].strip().strip("'\""): block.rstrip("\n") + "\n"
        for block in blocks
        if block.strip()
    }
    return head + line, named, tail


def _files(items: Collection[Any]) -> tuple[File, ...]:
    return tuple(
        File(path=item.path, md5=item.md5, size_bytes=item.size) for item in items if item.md5
    )
