"""What a run's bundle holds, and where it comes from.

The parameters and the record of DVC are those of the first commit, branch before experiment, whose
dvc.lock names what the run has published; of the workspace where no commit does. A run that has
published nothing has those of a state with the same inputs, and its own parameters.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlops import bundle, history
from mlops.bundle import Manifest
from mlops.errors import PipelineError
from mlops.lock_entries import Entry, origins, read_entries, selected, sources_of
from mlops.locks import LockError
from mlops.parameter_values import check_aliases, with_values
from mlops.remotes import remotes, without_secrets
from mlops.restoring import Recorded
from mlops.run_records import RunRecord
from mlops.runs import CHECKPOINTS

# Of a run directory what says how it was, not how it is: no heartbeat, no lock, no cache.
RECORD = ("config.json", "metadata.json", "*.jsonl", "logs/**/*", "artifacts/**/*")

# As mlops.checkpoint_manager names them, which would import torch.
BEST, STATES = "best_model.pt", ("latest_checkpoint.pt", "previous_checkpoint.pt")


@dataclass(frozen=True, kw_only=True)
class State:
    """The parameters and DVC's record that a run belongs to; without a commit, the workspace's."""

    commit: str | None
    experiment: str | None  # DVC's name of the commit, if it is that of an experiment
    params: str
    lock: str


@dataclass(frozen=True, kw_only=True)
class Export:
    """What has been written; `state` is where parameters and dvc.lock are from."""

    path: Path
    manifest: Manifest
    state: State


def export_run(record: RunRecord, path: Path, *, with_checkpoint: bool) -> Export:
    """Write the bundle of a run that is not at work."""
    if record.status == "running":
        raise PipelineError(
            f"{record.path}: expected a run that is not at work, got one that is; stop it, or wait "
            "for its end"
        )
    if "fingerprint" not in record.metadata:
        raise PipelineError(
            f"{record.path}: expected the fingerprint of the run, found none, for it was killed "
            "while it was made, or earlier code made it; export another run"
        )
    state = state_of(record)
    try:
        entries = read_entries(state.lock)
    except LockError as error:
        raise PipelineError(
            f"{bundle.LOCK} of {state.commit or 'the workspace'}: expected the file that DVC "
            f"writes, got a fault ({error}); restore it with git checkout HEAD -- {bundle.LOCK}"
        ) from None
    check_aliases(state.params, bundle.PARAMS)  # which `runs apply` refuses
    stages = sources_of(entries, record.published or record.inputs)
    sources = [entries[name] for name in stages]
    manifest = Manifest(
        format_version=bundle.FORMAT_VERSION,
        run=record.id,
        experiment=record.experiment,
        commit=commit_of_code(record, sources, state),
        stage=stage_of(sources, record.published),
        remotes={name: without_secrets(url) for name, url in remotes().items()},
        files={},
    )
    contents: dict[str, Path | bytes] = {
        bundle.PARAMS: with_values(state.params, parameters(record, sources)).encode(),
        bundle.LOCK: selected(state.lock, stages).encode(),
    }
    contents |= {f"{bundle.RUN}{name}": file for name, file in record_files(record.path)}
    if with_checkpoint:
        contents |= {f"{bundle.RUN}{name}": file for name, file in checkpoint_files(record)}
    bundle.write_bundle(path, manifest, contents)
    return Export(path=path, manifest=manifest, state=state)


def state_of(record: RunRecord) -> State:
    recorded = Recorded()
    named = record.published or record.inputs
    holder = recorded.holder(named) if record.published else None
    if holder is None and recorded.in_workspace(named):
        texts = [Path(name).read_text() for name in (bundle.PARAMS, bundle.LOCK)]
        return State(commit=None, experiment=None, params=texts[0], lock=texts[1])
    holder = holder or recorded.holder(named)
    if holder is None:
        raise PipelineError(
            f"{record.path}: expected a dvc.lock, of the workspace or of a commit or experiment, "
            f"that names what the run has {'published' if record.published else 'read'}, found "
            "none; run dvc repro and commit dvc.lock"
        )
    contents = history.contents_at(holder.commit.hash, [bundle.PARAMS, bundle.LOCK])
    return State(
        commit=holder.commit.hash,
        experiment=holder.experiment,
        params=contents.get(bundle.PARAMS, b"").decode(),
        lock=contents[bundle.LOCK].decode(),
    )


def stage_of(entries: Iterable[Entry], published: Mapping[str, str]) -> str | None:
    """The stage whose outs are what the run has published."""
    for entry in entries:
        if published and published.items() <= {out.path: out.md5 for out in entry.outs}.items():
            return entry.stage
    return None


def parameters(record: RunRecord, entries: Iterable[Entry]) -> dict[str, Any]:
    """The values that the stages ran with, by dotted key: params.yaml may be newer than they.

    Where nothing was published no entry is the run's own, and config.json has its values. A key
    without a section there names its cell.
    """
    values = {key: value for entry in entries for key, value in entry.params.items()}
    if not record.published:
        values |= {key: value for key, value in record.parameters.items() if "." in key}
    return values


def commit_of_code(record: RunRecord, entries: list[Entry], state: State) -> str | None:
    """The commit that has every source file as the run and the stages before it read it."""
    git = record.environment.get("git")
    for commit in (git and git["commit"], state.commit):
        if commit and history.find_commit(commit) and has_code(commit, record, entries):
            return history.find_commit(commit)
    return None


def has_code(commit: str, record: RunRecord, entries: list[Entry]) -> bool:
    code: Mapping[str, str] = record.metadata["fingerprint"]["code"]
    read = {file.path: file.md5 for file in origins(entries)}
    pointers = {f"{path}.dvc": md5 for path, md5 in read.items()}
    held = history.contents_at(commit, [*code, *read, *pointers])
    # What a stage read and git does not have is data, which `dvc add` tracks or nothing does.
    return (
        all(path in held and _sha256(held[path]) == digest for path, digest in code.items())
        and all(_md5(held[path]) == md5 for path, md5 in read.items() if path in held)
        and all(md5.encode() in held[path] for path, md5 in pointers.items() if path in held)
    )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def record_files(run_dir: Path) -> Iterable[tuple[str, Path]]:
    found = {path for pattern in RECORD for path in run_dir.glob(pattern)}
    for path in sorted(found):
        if path.is_file() and not path.is_symlink() and not path.name.startswith("."):
            yield path.relative_to(run_dir).as_posix(), path


def checkpoint_files(record: RunRecord) -> Iterable[tuple[str, Path]]:
    """The newest state, and the best model beside it."""
    directory = record.path / CHECKPOINTS
    states = [name for name in STATES if (directory / name).exists()]
    if not states:
        raise PipelineError(
            f"{directory}: expected a checkpoint, found none; export it without --with-checkpoint"
        )
    for name in (BEST, states[0]):
        if (directory / name).exists():
            yield f"{CHECKPOINTS}/{name}", directory / name
