"""dvc.lock, read for the versions of the data that it names.

DVC keeps in it, for every stage, the md5 and the size of all that the stage read and wrote, and
the parameters it ran with. So every dvc.lock in git's history says which data its commit had.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import yaml

from mlops.errors import PipelineError
from mlops.files.canonical import config_hash
from mlops.recorded.dvc_yaml import DataTable

LOCK = Path("dvc.lock")

# By first character, as PyYAML keeps them; None stands for any. DVC writes YAML 1.2, in which `no`
# is a text and `1e-05` a number; PyYAML's own rules are those of 1.1.
YAML_12 = {
    None: [
        (f"tag:yaml.org,2002:{name}", re.compile(pattern))
        for name, pattern in (
            ("bool", r"(true|True|TRUE|false|False|FALSE)$"),
            ("int", r"[-+]?[0-9]+$"),
            ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$"),
            ("null", r"(~|null|Null|NULL|)$"),
        )
    ]
}


Identity = tuple[str, str, str | None]  # data, content hash, files hash


@dataclass(frozen=True, kw_only=True)
class Version:
    """A version of a table of the data, as one dvc.lock records it."""

    data: str  # the table's name in dvc.yaml
    content_hash: str  # md5 of the table
    files_hash: str | None = None  # of the directory, with DVC's suffix `.dir`
    size_bytes: int | None = None  # of both
    config_hash: str | None = None  # of the parameters that made it
    made_from: Mapping[str, str] = field(default_factory=dict)  # md5 of other tables, by name

    @property
    def identity(self) -> Identity:
        return self.data, self.content_hash, self.files_hash

    def __str__(self) -> str:
        return f"{self.data} {self.content_hash[:8]}"


Lock = Mapping[str, Version]  # by name of the table


class _Item(msgspec.Struct):
    path: str
    md5: str | None = None  # none of what a cloud keeps by version
    size: int | None = None


class StageRecord(msgspec.Struct):
    """An entry of dvc.lock or of the run cache, as far as it is read here."""

    cmd: str = ""
    deps: list[_Item] = []
    params: dict[str, Any] = {}
    outs: list[_Item] = []

    @property
    def read_md5s(self) -> dict[str, str]:
        return {item.path: item.md5 for item in self.deps if item.md5}

    @property
    def made_md5s(self) -> dict[str, str]:
        return {item.path: item.md5 for item in self.outs if item.md5}


class LockError(PipelineError):
    """A dvc.lock that is not as DVC writes it."""


@contextmanager
def _as_lock_error() -> Iterator[None]:
    try:
        yield
    except (UnicodeDecodeError, yaml.YAMLError, msgspec.ValidationError) as error:
        raise LockError(
            f"{LOCK}: expected the file that DVC writes, got a fault "
            f"({' '.join(str(error).split())}); restore it with git checkout HEAD -- {LOCK}"
        ) from None


@_as_lock_error()
def read_versions(content: bytes, tables: Mapping[str, DataTable]) -> Lock:
    """Return the versions of the tables that a dvc.lock names; raises `LockError`."""
    # Looking at the text first: parsing takes milliseconds, and few stages make a table.
    named = re.compile("|".join(f" {re.escape(table.path)}\n" for table in tables.values()))
    _, *texts = _stage_texts(content)
    stages = [_stage(text)[1] for text in texts if named.search(text.partition("\n    outs:\n")[2])]
    return {version.data: version for stage in stages for version in _stage_versions(stage, tables)}


@_as_lock_error()
def recorded_stages(content: bytes) -> dict[str, StageRecord]:
    """Return what a dvc.lock records of each stage, by its name; raises `LockError`."""
    head, *stages = _stage_texts(content)
    msgspec.convert(parse_yaml(head), dict[str, Any])
    return dict(map(_stage, stages))


@_as_lock_error()
def recorded_run(content: bytes) -> StageRecord:
    """Return what an entry of DVC's run cache records; raises `LockError`."""
    return msgspec.convert(parse_yaml(content.decode()), StageRecord)


def recorded_md5s(content: bytes) -> dict[str, str]:
    """Return the md5 of every path that a dvc.lock names, with `.dir` if it is a directory's.

    That of an out comes before that of a dep, which may be of an earlier run of its stage.
    Raises `LockError`.
    """
    return _md5s(recorded_stages(content))


def workspace_stages(root: Path = Path()) -> dict[str, StageRecord]:
    """Return `recorded_stages` of a repository's dvc.lock; empty without a sound one."""
    try:
        return recorded_stages((root / LOCK).read_bytes())
    except (FileNotFoundError, LockError):
        return {}


def workspace_md5s(root: Path = Path()) -> dict[str, str]:
    """Return `recorded_md5s` of a repository's dvc.lock; empty without a sound one."""
    return _md5s(workspace_stages(root))


def _md5s(stages: Mapping[str, StageRecord]) -> dict[str, str]:
    read = {path: md5 for stage in stages.values() for path, md5 in stage.read_md5s.items()}
    made = {path: md5 for stage in stages.values() for path, md5 in stage.made_md5s.items()}
    return read | made


def _stage_texts(content: bytes) -> list[str]:
    """Split a dvc.lock into what stands above the stages, and the text of each."""
    # A stage begins with its name after two spaces. Of 1,000 locks most stages are equal, and
    # equal text is parsed once: 1 ms a stage, even with the parser that is written in C.
    return re.split(r"^(?=  [^\s#])", content.decode(), flags=re.MULTILINE)


@lru_cache(maxsize=1000)
def _stage(text: str) -> tuple[str, StageRecord]:
    ((name, record),) = msgspec.convert(parse_yaml(text), dict[str, StageRecord]).items()
    return name, record


def _stage_versions(stage: StageRecord, tables: Mapping[str, DataTable]) -> Iterator[Version]:
    made = {item.path: item for item in stage.outs}
    read = stage.read_md5s
    for data, table in tables.items():
        if content_hash := stage.made_md5s.get(table.path):
            directory = made.get(table.directory or "")
            sizes = [item.size for item in (made[table.path], directory) if item]
            yield Version(
                data=data,
                content_hash=content_hash,
                files_hash=directory.md5 if directory else None,
                size_bytes=None if None in sizes else sum(filter(None, sizes)),
                config_hash=config_hash(stage.params),
                made_from={
                    name: read[other.path] for name, other in tables.items() if other.path in read
                },
            )


def parse_yaml(text: str) -> Any:
    """Parse a document as DVC does, by the rules of YAML 1.2."""
    loader = yaml.CSafeLoader(text)
    loader.yaml_implicit_resolvers = YAML_12
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()
