"""Removal of run directories that are of no more use.

| a run that is                           | may be removed                                        |
| --------------------------------------- | ----------------------------------------------------- |
| running                                 | never                                                 |
| finished                                | if DVC's cache has all that it published, and a       |
|                                         | dvc.lock names it: else this is the only copy, or     |
|                                         | `dvc gc` may remove the other                         |
| dead, failed or interrupted             | if it was last at work longer ago than asked for:     |
|                                         | until then the same command may go on with it         |
| without a metadata.json that names it   | never: something else may have made the directory     |
| reached by a symbolic link              | never                                                 |
| holding a file that no run writes       | never: the file is the user's                         |

The newest runs of each experiment stay in any case. Files are removed one by one, those alone that
a run writes, metadata.json last: a removal that is killed is finished by the next.
"""

import fcntl
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mlops.errors import PipelineError
from mlops.files.atomic import HALF_WRITTEN, is_regular
from mlops.files.canonical import config_hash
from mlops.files.locks import run_lock
from mlops.files.tables import listed
from mlops.metrics.log import LOG
from mlops.recorded.restore import Recorded, size_bytes
from mlops.run.attempts import run_status
from mlops.run.directory import DIRECTORIES
from mlops.run.documents import METADATA, RUN_ID, read_metadata
from mlops.run.identity import fingerprint_hash
from mlops.run.records import RunRecord

REMOVED = ".removed_"  # begins the name of a directory that is being removed
_REMOVED = re.compile(rf"{re.escape(REMOVED)}({RUN_ID.pattern})_\d+", re.ASCII)

# What a run writes, by directory: the files, and what they were renamed to. Earlier code also wrote
# metrics.summary.json and a best model among the checkpoints.
_WRITTEN = {
    "": r"(config|metadata|metrics\.summary)\.json|heartbeat|\.metadata\.lock"
    r"|(orphans|(metrics|ledger)(\.copy)?|timings|(ledger|timings)\.orphans)\.jsonl(\.damaged\d+)?",
    "checkpoints": r"(latest_checkpoint|previous_checkpoint|best_model|checkpoint_epoch_\d{4,})\.pt"
    r"(\.(damaged|refused|later)\d+|\.of_epoch_-?\d+)?",
    "artifacts": r"best_model\.pt|history\.csv|params_before_\d{3,}\.yaml",
    "logs": r"attempt_\d{3,}\.log",
}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Decision on whether a run may be removed, with the reason in words."""

    run: RunRecord
    removable: bool
    reason: str
    size_bytes: int


def judge(
    records: Sequence[RunRecord],
    recorded: Recorded,
    *,
    keep: int,
    older_than_days: float | None,
) -> list[Verdict]:
    """Return a verdict for each run, in the order given, which is that of `read_records`.

    `keep` is the number of runs of each experiment that stay; without `older_than_days` every
    unfinished run stays.
    """
    later: Counter[str] = Counter()
    verdicts = []
    for record in reversed(records):
        if record.status == "running":
            removable, reason = False, "at work"
        elif later[record.experiment] < keep:
            removable, reason = False, f"one of the newest {keep} of {record.experiment}"
        elif record.status == "finished":
            removable, reason = _finished(record, recorded)
        else:
            removable, reason = _unfinished(record, older_than_days)
        if removable and (obstacle := _obstacle(record.path, record.id)):
            removable, reason = False, obstacle
        later[record.experiment] += record.metadata.get("run_id") == record.id
        num_bytes = size_bytes(record.path)
        verdicts.append(
            Verdict(run=record, removable=removable, reason=reason, size_bytes=num_bytes)
        )
    return verdicts[::-1]


def _finished(record: RunRecord, recorded: Recorded) -> tuple[bool, str]:
    published = record.published
    if not published:
        return False, "finished, but without a record of what it published"
    if not recorded.is_cached(published):
        return False, "DVC's cache lacks what it published"
    if recorded.in_workspace(published):
        return True, "in DVC's cache, and named by the workspace's dvc.lock"
    if holder := recorded.holder(published):
        return True, f"in DVC's cache, and named by {holder.commit.hash[:8]}"
    return False, "no dvc.lock names what it published: dvc gc may remove that"


def _unfinished(record: RunRecord, older_than_days: float | None) -> tuple[bool, str]:
    if older_than_days is None:
        return False, f"{record.status}: --older-than DAYS removes such runs"
    # Without an attempt it was killed while it was made, and its record tells when.
    metadata = record.path / METADATA
    path = metadata if metadata.exists() else record.path
    made = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    age = datetime.now(UTC) - (record.last_seen or made)
    if age <= timedelta(days=older_than_days):
        return False, f"{record.status}, at work {age.days} days ago"
    return True, f"{record.status}, last at work {age.days} days ago"


def remove(output_base: Path, record: RunRecord) -> bool:
    """Remove a run's directory; return False if it is at work by now, or holds other files.

    It is renamed first: what is half removed is never taken for a run.
    """
    fingerprint = record.metadata.get("fingerprint")
    identity = fingerprint_hash(fingerprint) if fingerprint else config_hash(record.id)
    try:
        # The lock that a start of the same training takes before it looks for its run.
        with run_lock(output_base, identity, log=lambda _: None, check=_give_up):
            if run_status(record.path) == "running" or _obstacle(record.path, record.id):
                return False
            gone = record.path.with_name(f"{REMOVED}{record.id}_{os.getpid()}")
            record.path.rename(gone)
    except PipelineError:  # locked, or damaged meanwhile
        return False
    if _remove_files(gone):
        return True
    with suppress(OSError):  # where its owner finds what else has come to lie there
        gone.rename(record.path)
    return False


def remove_left_behind(output_base: Path) -> None:
    """Finish what an earlier removal renamed, and was killed before it had removed it."""
    for path in output_base.glob(f"*/{REMOVED}run_*"):
        found = _REMOVED.fullmatch(path.name)
        if found and not _obstacle(path, found[1]):
            _remove_files(path)


def _obstacle(run_dir: Path, run_id: str) -> str | None:
    """Return why the directory must not be removed, whatever has become of the run."""
    if run_dir.is_symlink() or run_dir.parent.is_symlink():
        return "reached by a symbolic link: what lies there may be in use elsewhere"
    try:
        is_known = read_metadata(run_dir).get("run_id") == run_id
    except FileNotFoundError:
        # A removal that was killed after it left empty directories at most.
        is_known = run_dir.name.startswith(REMOVED) and not any(_entries(run_dir))
    except PipelineError:
        is_known = False
    if not is_known:
        return f"without a {METADATA} that names it: perhaps no run at all"
    if foreign := list(_foreign(run_dir)):
        return f"holds files that no run writes: {listed(foreign)}; move them away first"
    return "at work: a process has its log open" if _is_written_to(run_dir / LOG) else None


def _is_written_to(log: Path) -> bool:
    """Return whether a process holds the lock of a log, as one without attempts does too."""
    try:
        with log.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # there is no log
        pass
    return False


def _entries(run_dir: Path) -> Iterator[tuple[str, Path]]:
    """Yield all that lies in a run directory and its sub-directories, with where it lies."""
    for directory in ("", *DIRECTORIES):
        if (run_dir / directory).is_symlink() or not (run_dir / directory).is_dir():
            continue
        for path in sorted((run_dir / directory).iterdir()):
            is_own = not directory and path.name in DIRECTORIES and not path.is_symlink()
            if not (is_own and path.is_dir()):
                yield directory, path


def _foreign(run_dir: Path) -> Iterator[str]:
    """Yield the relative paths of what no run writes, links and directories among them."""
    for directory, path in _entries(run_dir):
        half = HALF_WRITTEN.fullmatch(path.name)
        name = half.expand(r"\1\2") if half else path.name
        if not (is_regular(path) and re.fullmatch(_WRITTEN[directory], name, re.ASCII)):
            yield path.relative_to(run_dir).as_posix()


def _remove_files(run_dir: Path) -> bool:
    """Remove what the run has written; return False if something else has come to lie there."""
    if any(_foreign(run_dir)):
        return False
    metadata = run_dir / METADATA
    # metadata.json and its directory last, and each of them only if nothing is left beside it.
    files = [path for _, path in _entries(run_dir) if path != metadata]
    try:
        for path in files:
            path.unlink(missing_ok=True)
        for directory in (run_dir / name for name in DIRECTORIES):
            if directory.exists():
                directory.rmdir()
        metadata.unlink(missing_ok=True)
        run_dir.rmdir()
    except OSError:  # a file that is new since, or no right to remove one
        return False
    return True


def _give_up() -> None:
    raise PipelineError("expected a run that no process holds, got one that another does")
