"""A bundle taken up by this clone: the run below runs/, its parameters, DVC's record of it."""

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import msgspec

from mlops import files, history
from mlops.bundle import CHECKPOINTS, LOCK, PARAMS, RUN, Manifest
from mlops.cache import cache_directory
from mlops.command_values import PIPELINE, unfit_for_commands
from mlops.errors import PipelineError
from mlops.lock_entries import Entry, File, differing, merged, origins, read_entries, selected
from mlops.locks import LockError
from mlops.objects import Objects
from mlops.parameter_values import Change, check_aliases, differing_values, with_values
from mlops.resume import APPLIED
from mlops.run_config import UNHASHED
from mlops.run_documents import RunStatus
from mlops.runs import DIRECTORIES, check_experiment_name

# Of a run directory: the record, and the states that it goes on from.
_BELONGS = re.compile(r"(config|metadata)\.json|[^/]+\.jsonl|(logs|artifacts|checkpoints)/.+")


@dataclass(frozen=True, kw_only=True)
class Record:
    """What an unpacked bundle says, checked."""

    manifest: Manifest
    params: str
    lock: str
    entries: Mapping[str, Entry]
    code: Mapping[str, str]  # sha256 of the source files that the run read
    versions: Mapping[str, str]  # of Python and libraries

    @property
    def has_state(self) -> bool:
        """Whether a checkpoint came with it."""
        return any(name.startswith(CHECKPOINTS) for name in self.manifest.files)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What would change in the work tree, and the texts that make it so."""

    changes: list[Change]
    only_there: list[str]  # keys that params.yaml here does not have
    stages: list[str]  # whose entries in dvc.lock are others here
    params: str
    lock: str


class _Fingerprint(msgspec.Struct):
    config: str
    inputs: dict[str, str]
    code: dict[str, str]
    versions: dict[str, str]
    device: str


class _Attempt(msgspec.Struct):
    number: int
    started: str
    ended: str | None
    reason: str | None
    log: Annotated[str, msgspec.Meta(pattern=r"^logs/[\w.]+$")]


class _Metadata(msgspec.Struct):
    """What all that reads runs relies on: a run that is taken up is one of this clone's."""

    run_id: str
    status: RunStatus
    fingerprint: _Fingerprint
    attempts: list[_Attempt] = []
    published: dict[str, str] = {}


class _Config(msgspec.Struct):
    config: dict[str, Any]


def read_record(directory: Path, manifest: Manifest) -> Record:
    """Read the files of an unpacked bundle; a `PipelineError` for those that make no sense."""
    faults = []
    try:
        check_experiment_name(manifest.experiment)
    except ValueError as error:
        faults.append(str(error))
    if not re.fullmatch(r"run_\d{8}_\d{6}_[0-9a-f]{8}", manifest.run):
        faults.append(f"run: expected the id of a run, got {manifest.run!r}")
    # Printed as part of commands that are typed as they stand.
    if manifest.stage is not None and not re.fullmatch(r"[\w.@-]{1,200}", manifest.stage, re.ASCII):
        faults.append(f"stage: expected DVC's name of a stage, got {manifest.stage!r}")
    if manifest.commit is not None and not re.fullmatch(r"[0-9a-f]{40,64}", manifest.commit):
        faults.append(f"commit: expected a hash, got {manifest.commit!r}")
    faults += [
        f"{name}: expected a file of a run's record or a checkpoint, got another"
        for name in manifest.files
        if name.startswith(RUN) and not _BELONGS.fullmatch(name.removeprefix(RUN))
    ]
    try:
        params, lock = ((directory / name).read_text("utf-8") for name in (PARAMS, LOCK))
        check_aliases(params, PARAMS)
        check_aliases(lock, LOCK)
        entries = read_entries(lock)
        faults += [f"{PARAMS}: {fault}" for fault in unfit_for_commands(params, Path(PIPELINE))]
        content = (directory / RUN / "metadata.json").read_bytes()
        metadata = msgspec.json.decode(content, type=_Metadata)
        msgspec.json.decode((directory / RUN / "config.json").read_bytes(), type=_Config)
        if metadata.run_id != manifest.run:
            faults.append(f"run/metadata.json: expected that of the run, got {metadata.run_id}'s")
    except (LockError, ValueError, RecursionError) as error:
        faults.append(f"expected the files of a run, got a fault ({error})")
    if faults:
        raise PipelineError(*(f"bundle: {fault}; have it made again" for fault in faults))
    return Record(
        manifest=manifest,
        params=params,
        lock=lock,
        entries=entries,
        code=metadata.fingerprint.code,
        versions=metadata.fingerprint.versions,
    )


def place_run(directory: Path, manifest: Manifest, output_base: Path) -> tuple[Path, list[str]]:
    """Put the run of an unpacked bundle below `output_base`; where, and which files were new there.

    A run that is there already gets what it lacks. A file with another content is a fault, and
    nothing is changed: it may be the state of a training.
    """
    run_dir = output_base / manifest.experiment / manifest.run
    contents = {
        name.removeprefix(RUN): content
        for name, content in manifest.files.items()
        if name.startswith(RUN)
    }
    others = [
        name
        for name, content in contents.items()
        if os.path.lexists(run_dir / name) and not _is(run_dir / name, content.sha256)
    ]
    if others:
        raise PipelineError(
            f"{run_dir}: expected no such run, or the one of the bundle, got one with another "
            f"{', '.join(others)}; if it is of no more use, move it away"
        )
    new = [name for name in contents if not (run_dir / name).exists()]
    unpacked = directory / RUN
    if run_dir.exists():
        for name in new:
            (run_dir / name).parent.mkdir(parents=True, exist_ok=True)
            (unpacked / name).rename(run_dir / name)
    else:
        for name in DIRECTORIES:
            (unpacked / name).mkdir(exist_ok=True)
        files.write_json(unpacked / APPLIED, {"commit": manifest.commit, "stage": manifest.stage})
        run_dir.parent.mkdir(parents=True, exist_ok=True)
        unpacked.rename(run_dir)
        files.sync(run_dir.parent)
    return run_dir, new


def other_code(record: Record) -> list[str]:
    """The files of git here that are not as the run, or a stage before it, had them.

    Data that `dvc add` tracks count by their .dvc file.
    """
    read = {file.path: file.md5 for file in origins(list(record.entries.values()))}
    tracked = history.tracked(read) if read else set()
    different = {path for path, digest in record.code.items() if not _is(Path(path), digest)}
    for path, md5 in read.items():
        pointer = Path(f"{path}.dvc")
        if path in tracked and not md5.endswith(".dir") and not _is(Path(path), md5):
            different.add(path)
        elif path not in tracked and pointer.exists() and md5 not in pointer.read_text("utf-8"):
            different.add(str(pointer))
    return sorted(different)


def other_versions(record: Record) -> list[str]:
    """Python and libraries, where they are not those of the run."""
    return [
        f"{name} {there} (here: {here or 'none'})"
        for name, there in record.versions.items()
        # A build of torch calls itself 2.15.0+cpu.
        if (here := _version(name)) is None or here.partition("+")[0] != there.partition("+")[0]
    ]


def setting_for(record: Record) -> Setting:
    """What makes params.yaml and dvc.lock those of the run.

    The sections that change no result stay as they are here. The entry of the run's own stage is
    left out if a checkpoint came with the run and DVC's cache lacks what it published: a training
    that dvc.lock does not name yet publishes what it has, and computes nothing.
    """
    stages = list(record.entries)
    own = record.entries.get(record.manifest.stage or "")
    if own and record.has_state and not all(map(_cached().has, (out.md5 for out in own.outs))):
        stages.remove(own.stage)
    here = Path(PARAMS).read_text("utf-8")
    there = differing_values(here, record.params)
    changes = [change for change in there.changes if _counts(change.key)]
    lock = Path(LOCK).read_text("utf-8") if Path(LOCK).exists() else ""
    try:
        wanted = selected(record.lock, stages)
        different, new_lock = differing(lock, wanted), merged(lock, wanted)
    except LockError as error:
        raise PipelineError(
            f"{LOCK}: expected the file that DVC writes, got a fault ({error}); restore it with "
            f"git checkout HEAD -- {LOCK}"
        ) from None
    return Setting(
        changes=changes,
        only_there=[key for key in there.only_there if _counts(key)],
        stages=different,
        params=with_values(here, {change.key: change.after for change in changes}),
        lock=new_lock,
    )


def apply_setting(setting: Setting) -> None:
    """Write params.yaml and dvc.lock; a `PipelineError` if that would mix with other changes.

    After a crash between the two the same command goes on: it looks at what it is to write alone.
    """
    texts = {LOCK: setting.lock} if setting.stages else {}
    texts |= {PARAMS: setting.params} if setting.changes else {}
    if texts and (changed := history.changed(texts)):
        raise PipelineError(
            f"{' and '.join(changed)}: expected no change that is not committed, for the run's "
            "values would mix with it, got some; git commit or git stash, and apply again"
        )
    for name, text in texts.items():
        files.write_text(Path(name), text)


def missing_data(record: Record) -> list[File]:
    """What the stages read and wrote and DVC's cache here does not have, source files aside."""
    objects = _cached()
    entries = list(record.entries.values())
    found = {file.path: file for file in origins(entries)}
    tracked = history.tracked(found) if found else set()
    data = [file for path, file in found.items() if path not in tracked and not Path(path).exists()]
    data += [out for entry in entries for out in entry.outs]
    return [file for file in data if not objects.has(file.md5)]


def _cached() -> Objects:
    return Objects(cache_directory())


def _counts(key: str) -> bool:
    return key.split(".")[0] not in UNHASHED


def _is(path: Path, digest: str) -> bool:
    """Whether a file has this sha256 or, of 32 digits, this md5."""
    if not path.is_file() or path.is_symlink():
        return False
    return (files.md5(path) if len(digest) == 32 else files.content_hash(path)) == digest


def _version(name: str) -> str | None:
    if name == "python":
        return platform.python_version()
    try:
        return version(name)
    except PackageNotFoundError:
        return None
