"""Inputs of a stage, compared at its end with what it began with.

DVC hashes the deps and parameters of a stage after its command has ended. Whatever was edited
meanwhile would be recorded, and kept in the run cache, as what the result was made from. So a
stage takes a snapshot of what dvc.yaml declares, and refuses to publish a result of other inputs:

| declared | is unchanged if |
| --- | --- |
| a key of params.yaml | its values are the same, however they are written |
| a Python module | its syntax tree is the same, docstrings left out |
| another file | its bytes are the same |
| a directory of this repository's code | each of its files is unchanged, as above |
| another directory | the files that were in it have the same size, time of change and inode |

A stage whose script imports code that dvc.yaml does not declare is refused at once: its results
would be stale, and DVC would not know it.

The moment between the end of the command and DVC's own hashing, some milliseconds for small files,
remains.
"""

import os
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any

import yaml

from mlops.errors import PipelineError
from mlops.files.atomic import content_hash
from mlops.files.canonical import config_hash, flatten
from mlops.files.source import PACKAGES, meaning, source_at_start
from mlops.recorded.dvc_lock import LOCK, StageRecord, parse_yaml, recorded_stages
from mlops.recorded.dvc_yaml import PIPELINE
from mlops.run.identity import imported_sources

PARAMS = "params.yaml"

# Of a larger file only the hash is kept, and no line can be named.
MAX_KEPT_BYTES = 1_000_000

# Size, time of the last change of the content, inode: by these DVC knows a file again, too.
Signature = tuple[int, int, int]

REMEDY = (
    "nothing is published, for DVC would record the result under what is there now: put it back "
    "and run the same command again, which goes on from what is done; or run the command again to "
    "begin with what is there now"
)


class InputsChangedError(PipelineError):
    """Inputs are not those that the stage began with."""


class StageInputs:
    """Parameters, code and data that a stage began with.

    `deps` are paths relative to the current directory, `keys` the dotted keys that are read of each
    file of parameters.
    """

    def __init__(self, deps: Collection[Path], keys: Mapping[str, Collection[str]]) -> None:
        self._keys = keys
        self._params = {name: _values(name, keys[name]) for name in keys}
        directories = [path for path in deps if path.is_dir()]
        # By its place: a script among the user's videos makes no code of them.
        code = [path for path in directories if path.parts[:1] and path.parts[0] in PACKAGES]
        files = [path for path in deps if not path.is_dir()] + [
            path
            for directory in code
            for path in directory.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        ]
        self._files = {path: _content_at_start(path) for path in files}
        self._directories = {path: _signatures(path) for path in directories if path not in code}
        self._told: set[str] = set()

    def read_only(self, directory: Path, paths: Iterable[Path]) -> None:
        """Declare that the stage reads these files below a directory and no others.

        Files that are not there count as read: they must not appear either.
        """
        if directory in self._directories:
            self._directories[directory] = {path: _signature(path) for path in paths}

    def check(self) -> None:
        """Raise `InputsChangedError` with everything that has changed since the stage began."""
        faults = [*self._changed(), *self._changed_in_directories()]
        if faults:
            raise InputsChangedError(*faults, REMEDY)

    def check_makers(self, stages: Iterable[str]) -> None:
        """Raise `InputsChangedError` if dvc.lock records other parameters for one of these stages.

        They have made what this stage reads. A value that was edited between two stages of one
        `dvc repro` is theirs no longer, and none of them could see it.
        """
        recorded = recorded_stages(LOCK.read_bytes()) if LOCK.is_file() else {}
        faults: dict[str, str] = {}
        for stage in stages:
            for name, sections in recorded.get(stage, StageRecord()).params.items():
                made, now = flatten(sections), self._params.get(name, {})
                # Of what this stage reads too, a key that only one of both has is a difference.
                read = [
                    section for section in sections if _is_below(section, self._keys.get(name, ()))
                ]
                shared = {key for key in made.keys() | now.keys() if _is_below(key, read)}
                for key, old, new in _differences(made, now, shared | (made.keys() & now.keys())):
                    faults.setdefault(
                        f"{name}: {key}", f"expected {old}, with which {stage} ran, got {new}"
                    )
        if faults:
            raise InputsChangedError(
                *(f"{place}: {fault}" for place, fault in faults.items()),
                "run dvc repro, which makes anew what depends on it",
            )

    def news(self) -> list[str]:
        """Return the changes that no earlier call has returned, directories left out.

        Costs a look at each file, about a millisecond for a hundred.
        """
        changes = [change for change in self._changed() if change not in self._told]
        self._told.update(changes)
        return changes

    def _changed(self) -> Iterator[str]:
        for name, values in self._params.items():
            now = _values(name, self._keys[name])
            for key, old, new in _differences(values, now, values.keys() | now.keys()):
                yield f"{name}: {key}: expected {old} as at the start, got {new}"
        for path, before in self._files.items():
            if fault := _change(path, before):
                yield f"{path}{fault}"

    def _changed_in_directories(self) -> Iterator[str]:
        for before in self._directories.values():
            changed = [path for path in before if before[path] != _signature(path)]
            for path in changed:
                now = "another" if path.exists() else "no file"
                yield f"{path}: expected the content of the start, got {now}"


def stage_inputs(stage: str) -> StageInputs:
    """Take the snapshot of what dvc.yaml declares for a stage of the current directory.

    Nothing is declared for a stage that dvc.yaml does not name, or without a dvc.yaml. Raises
    `PipelineError` if the stage imports code that is not declared.
    """
    declared = _declared(stage)
    if declared:
        _check_imports(stage, [_name(dep) for dep in declared.get("deps", [])])
    values = {"item": _options()} | _document(PARAMS)
    texts = (_resolved(_name(dep), values) for dep in declared.get("deps", []))
    keys: dict[str, list[str]] = {}
    for item in declared.get("params", []):
        # A file of its own is a mapping; without keys, all of it is read.
        for name, listed in item.items() if isinstance(item, dict) else [(PARAMS, [item])]:
            found = (_resolved(key, values) for key in listed or _document(name))
            keys.setdefault(name, []).extend(key for key in found if key is not None)
    return StageInputs([Path(text) for text in texts if text is not None], keys)


def undeclared_imports(stage: str, deps: Collection[str]) -> list[Path]:
    """Return the modules that the script of a stage imports and that lie in no dep.

    Modules of this package are left out: those that can change a result are named one by one. So
    are the script's neighbors, which read parameters and paths and identify a training.
    """
    script = Path("stages", f"{stage}.py")
    own_package = __name__.partition(".")[0]

    def counts(path: Path) -> bool:
        return path == script or path.parts[0] not in (own_package, script.parent.name)

    found = imported_sources(f"{script.parent.name}.{stage}", counts=counts)
    return [
        path
        for path in found
        if path.name != "__init__.py" and not any(path.is_relative_to(dep) for dep in deps)
    ]


def _check_imports(stage: str, deps: Collection[str]) -> None:
    if missing := undeclared_imports(stage, deps):
        lines = sorted({f"- {path.parent.as_posix()}" for path in missing})
        raise PipelineError(
            f"{PIPELINE}: {stage}: expected all code that the stage imports among its deps, found "
            f"{', '.join(map(str, missing))} in none; add to the deps of the stage: "
            f"{', '.join(lines)}"
        )


def _declared(stage: str) -> Mapping[str, Any]:
    stages = _document(str(PIPELINE)).get("stages")
    entry = stages.get(stage) if isinstance(stages, dict) else None
    return entry if isinstance(entry, dict) else {}


def _document(name: str) -> dict[str, Any]:
    """Return a YAML file as DVC reads it; empty if it is absent or at fault, as the stage says."""
    try:
        document = parse_yaml(Path(name).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return document if isinstance(document, dict) else {}


def _name(dep: Any) -> str:
    return next(iter(dep)) if isinstance(dep, dict) else str(dep)


def _options() -> dict[str, str]:
    """Return the options of the command line, which DVC fills in from the keys of the matrix."""
    words = sys.argv[1:]
    return {name[2:]: value for name, value in pairwise(words) if name.startswith("--")}


def _resolved(text: str, values: Mapping[str, Any]) -> str | None:
    """Return the text with `${dotted.keys}` filled in; None if a key has no value."""
    flat = flatten(values)
    try:
        return re.sub(r"\$\{\s*([\w.]+)\s*\}", lambda found: str(flat[found[1]]), text)
    except KeyError:
        return None


def _values(name: str, keys: Collection[str]) -> dict[str, Any]:
    """Return the values below the keys by their full dotted keys."""
    flat = flatten(_document(name))
    return {full: flat[full] for full in flat if _is_below(full, keys)}


def _is_below(key: str, sections: Collection[str]) -> bool:
    """Return whether a dotted key is one of these sections or lies in one."""
    return any(f"{key}.".startswith(f"{section}.") for section in sections)


def _content_at_start(path: Path) -> bytes | str | None:
    """Return the content of a file, of a module as it was imported; None if it is not there."""
    is_module = path.suffix == ".py" and path.is_file()
    return source_at_start(path) if is_module else _content(path)


def _content(path: Path) -> bytes | str | None:
    """Return the bytes of a file, the hash of a large one; None if it is not there."""
    try:
        stat = path.stat()
        large = stat.st_size > MAX_KEPT_BYTES
        return _hash(path, stat.st_ctime_ns) if large else path.read_bytes()
    except OSError:
        return None


@cache
def _hash(path: Path, changed_ns: int) -> str:
    """Return the sha256 of a file, computed again only after it was written to."""
    return content_hash(path)


def _change(path: Path, before: bytes | str | None) -> str | None:
    """Return what differs in a file, in words that follow its name; None if nothing does."""
    now = _content(path)
    if before == now:
        return None
    if before is None or now is None:
        was, found = ("no file", "one") if before is None else ("the content", "no file")
        return f": expected {was} as at the start, found {found}"
    line = ""
    if isinstance(before, bytes) and isinstance(now, bytes):
        if path.suffix == ".py" and meaning(before) == meaning(now):
            return None
        line = _line(before, now)
    return f"{line}: expected the content of the start, got another"


def _line(before: bytes, now: bytes) -> str:
    """Return the first line that differs; nothing for what is no text."""
    if b"\0" in before or b"\0" in now:
        return ""
    pairs = zip_longest(before.splitlines(), now.splitlines())
    return next((f" line {i}" for i, (old, new) in enumerate(pairs, 1) if old != new), "")


def _signatures(directory: Path) -> dict[Path, Signature | None]:
    paths = (Path(base, name) for base, _, names in os.walk(directory) for name in names)
    return {path: _signature(path) for path in paths}


def _signature(path: Path) -> Signature | None:
    try:
        stat = path.stat()
    except (OSError, ValueError):  # a name that no file can have
        return None
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def _differences(
    before: Mapping[str, Any], now: Mapping[str, Any], keys: Iterable[str]
) -> Iterator[tuple[str, str, str]]:
    """Yield each key whose values differ, in order, with both of them in words."""
    for key in sorted(keys):
        old, new = (repr(values[key]) if key in values else "no value" for values in (before, now))
        if config_hash([before.get(key)]) != config_hash([now.get(key)]):
            yield key, old, new
