"""Run directories, made so that the next start finds them again.

    runs/<experiment>/run_<YYYYmmdd_HHMMSS>_<first 8 of the fingerprint>/
        config.json      the parameters it was given, and their hash; those of all stages beside
        metadata.json    its id, from the first moment; fingerprint, status, and every attempt:
                         when, where, how it ended
        metrics.jsonl    the log; metrics.copy.jsonl: a copy up to the last state; orphans.jsonl:
                         what was cut off it
        ledger.jsonl     the samples of every step
        timings.jsonl    how long the epochs took, of which how much was waiting for data
        heartbeat        the process at work; its time of change is when it was last seen
        checkpoints/  artifacts/  logs/

`runs/` lies in the main repository, also when DVC runs a stage in a temporary directory, and is
no out of a stage, for DVC deletes outs before a stage runs. Nothing here is ever deleted but by
`python -m commands runs gc`.
"""

import errno
import fcntl
import os
import re
import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlops.errors import PipelineError
from mlops.files import atomic
from mlops.files.canonical import config_document
from mlops.run.documents import METADATA, check_metadata, read_metadata, run_directories
from mlops.run.identity import TrainingIdentity, fingerprint_hash

RUNNING, FINISHED = "running", "finished"
CHECKPOINTS = "checkpoints"  # in a run directory
DIRECTORIES = (CHECKPOINTS, "artifacts", "logs")


def check_experiment_name(name: str) -> None:
    """Raise `ValueError` if `name` cannot name a directory below runs/."""
    if not re.fullmatch(r"[\w.-]{1,100}", name) or name.startswith("."):
        raise ValueError(
            "experiment.name: expected at most 100 letters, digits, '_', '-' and '.', got "
            f"{name!r}; it names a directory below runs/"
        )


def create_run_directory(
    output_base: str | Path, experiment_name: str, identity: str | None = None
) -> tuple[Path, str]:
    """Make a new run directory and return it with its run id, the directory's name.

    A run id is `run_` with the time (UTC) and eight hex digits of `identity`, the hash of the
    run's fingerprint; without one, they are random. A name already taken is never shared: a second
    start in the same second takes the next second that is free. The directory appears with all its
    sub-directories and its id in metadata.json, or not at all. Raises `PipelineError` for an
    `experiment_name` that is not made of at most 100 letters, digits, "_", "-" and ".".
    """
    try:
        check_experiment_name(experiment_name)
    except ValueError as error:
        raise PipelineError(str(error)) from None
    suffix = (identity or secrets.token_hex(4))[:8]
    base = Path(output_base) / experiment_name
    making = base / f".run_{secrets.token_hex(8)}.tmp"
    for name in DIRECTORIES:
        (making / name).mkdir(parents=True)
    moment = max(int(datetime.now(UTC).timestamp()), _moment_after(output_base, suffix))
    while True:
        run_id = f"run_{datetime.fromtimestamp(moment, UTC):%Y%m%d_%H%M%S}_{suffix}"
        if _rename_to_free_name(making, base / run_id):
            return base / run_id, run_id
        moment += 1


def _moment_after(output_base: Path | str, suffix: str) -> int:
    """Return the second after the names of all runs with this suffix, 0 if there is none.

    Names give the order of runs, also if the clock of another host, or this one's, was ahead.
    """
    names = [path.name for path in run_directories(Path(output_base))]
    return max((_moment_of(name) + 1 for name in names if name.endswith(f"_{suffix}")), default=0)


def _moment_of(run_id: str) -> int:
    try:
        moment = datetime.strptime(run_id[:19], "run_%Y%m%d_%H%M%S")
    except ValueError:  # digits that are no date
        return 0
    return int(moment.replace(tzinfo=UTC).timestamp())


def _rename_to_free_name(directory: Path, name: Path) -> bool:
    # A rename replaces an empty directory, which another may just have made, but never one that
    # holds anything, as every run directory does from its first moment.
    if not os.path.lexists(name):
        # The mark by which it is known as a run, and may be removed as one.
        created = datetime.now(UTC).isoformat(timespec="seconds")
        atomic.write_json(directory / METADATA, {"run_id": name.name, "created": created})
        try:
            directory.rename(name)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
        else:
            return True
    return False


def make_run(
    output_base: Path,
    experiment_name: str,
    wanted: TrainingIdentity,
    run_config: Mapping[str, Any] | None = None,
) -> Path:
    """Make a run directory for this training, with all that identifies it.

    `run_config`, the document of a `RunConfig`, is kept beside: it has the parameters of the stages
    that made the data, too.
    """
    identity = fingerprint_hash(wanted.fingerprint)
    run_dir, _ = create_run_directory(output_base, experiment_name, identity)
    beside = {} if run_config is None else {"run_config": run_config}
    atomic.write_json(run_dir / "config.json", config_document(wanted.config) | beside)
    write_metadata(
        run_dir,
        status=RUNNING,
        fingerprint=wanted.fingerprint,
        trajectory=wanted.trajectory,
        # The name that DVC gives to the same content: it says which versions were trained on.
        inputs_md5={name: atomic.md5(Path(name)) for name in wanted.inputs if Path(name).is_file()},
    )
    return run_dir


def write_metadata(run_dir: Path, /, **entries: Any) -> None:
    """Add or replace entries of the run's metadata.json."""
    change_metadata(run_dir, lambda document: document | entries)


def change_metadata(
    run_dir: Path, change: Callable[[dict[str, Any]], dict[str, Any]]
) -> dict[str, Any]:
    """Replace the run's metadata.json by what `change` makes of it, and return that.

    Threads and processes take turns, so that none undoes what another has written. A
    `PipelineError` says that the directory is gone, or that the file is damaged.
    """
    if not run_dir.is_dir():
        raise PipelineError(gone(run_dir))
    # A file of its own, for metadata.json is replaced. Not a FileLock: its import takes 80 ms, and
    # every stage imports this module.
    lock = os.open(run_dir / ".metadata.lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            document = read_metadata(run_dir)
        except FileNotFoundError:
            document = {}
        document = change(document)
        check_metadata(document)
        atomic.write_json(run_dir / METADATA, document)
    finally:
        # Closing alone would leave it locked by a process forked meanwhile.
        fcntl.flock(lock, fcntl.LOCK_UN)
        os.close(lock)
    return document


def gone(run_dir: Path) -> str:
    """Return the message that a run's directory is missing while it is at work, with a remedy."""
    return (
        f"{run_dir}: expected the directory of this run, found none, for it was removed or moved "
        "meanwhile; put it back and run the same command again, or run it again to begin anew"
    )


def find_run(output_base: Path, name: str) -> Path:
    """Return the run with this id, or at this path, relative or below `output_base`."""
    paths = {path.parent for path in output_base.glob(f"*/run_*/{METADATA}")}
    asked = (Path(name).resolve(), (output_base / name).resolve())
    named = {path for path in paths if path.name == name}
    named = named or {path for path in paths if path.resolve() in asked}
    if len(named) == 1:
        return named.pop()
    if named:
        places = ", ".join(sorted(str(path) for path in named))
        raise PipelineError(f"{name}: expected one run, got {places}; name the directory")
    newest = max(paths, key=lambda path: path.name, default=None)
    hint = "dvc repro makes one" if newest is None else f"the newest is {newest}"
    raise PipelineError(
        f"{name}: expected the id of a run or a directory below {output_base}, found no such run; "
        f"{hint}"
    )
