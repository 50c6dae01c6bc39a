"""Which run directories are of no more use, and their removal.

| a run that is                           | may be removed                                        |
| --------------------------------------- | ----------------------------------------------------- |
| running                                 | never                                                 |
| finished                                | if DVC's cache has all that it published, and a       |
|                                         | dvc.lock names it: else this is the only copy, or     |
|                                         | `dvc gc` may remove the other                         |
| dead, failed or interrupted             | if it was last at work longer ago than asked for:     |
|                                         | until then the same command may go on with it         |

The newest runs of each experiment stay in any case.
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mlops.attempts import run_status
from mlops.fingerprint import fingerprint_hash
from mlops.restoring import Recorded, size_bytes
from mlops.run_lock import run_lock
from mlops.run_records import RunRecord

REMOVED = ".removed_"  # begins the name of a directory that is being removed


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a run may be removed, and why or why not, in words."""

    run: RunRecord
    removable: bool
    reason: str
    size_bytes: int


class _BusyError(Exception):
    """Another process holds the run."""


def judge(
    records: Sequence[RunRecord],
    recorded: Recorded,
    *,
    keep: int,
    older_than_days: float | None,
    now: datetime | None = None,
) -> list[Verdict]:
    """A verdict for each run, in the order given, which is that of `read_records`.

    `keep` is the number of runs of each experiment that stay; without `older_than_days` every
    unfinished run stays.
    """
    now = now or datetime.now(UTC)
    verdicts = []
    for place, record in enumerate(records):
        later = sum(other.experiment == record.experiment for other in records[place + 1 :])
        if record.status == "running":
            removable, reason = False, "at work"
        elif later < keep:
            removable, reason = False, f"one of the newest {keep} of {record.experiment}"
        elif record.status == "finished":
            removable, reason = _finished(record, recorded)
        else:
            removable, reason = _unfinished(record, older_than_days, now)
        verdicts.append(
            Verdict(
                run=record, removable=removable, reason=reason, size_bytes=size_bytes(record.path)
            )
        )
    return verdicts


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


def _unfinished(
    record: RunRecord, older_than_days: float | None, now: datetime
) -> tuple[bool, str]:
    if older_than_days is None:
        return False, f"{record.status}: --older-than DAYS removes such runs"
    # Without an attempt it was killed while it was made, and its directory tells when.
    made = datetime.fromtimestamp(record.path.stat().st_mtime, UTC)
    age = now - (record.last_seen or made)
    if age <= timedelta(days=older_than_days):
        return False, f"{record.status}, at work {age.days} days ago"
    return True, f"{record.status}, last at work {age.days} days ago"


def remove(output_base: Path, record: RunRecord) -> bool:
    """Remove a run's directory; False if a process works on it by now.

    It is renamed first: what is half removed is never taken for a run.
    """
    fingerprint = record.metadata.get("fingerprint")
    identity = fingerprint_hash(fingerprint) if fingerprint else record.id
    try:
        # The lock that a start of the same training takes before it looks for its run.
        with run_lock(output_base, identity, say=lambda _: None, check=_give_up):
            if run_status(record.path) == "running":
                return False
            gone = record.path.with_name(f"{REMOVED}{record.id}_{os.getpid()}")
            record.path.rename(gone)
    except _BusyError:
        return False
    shutil.rmtree(gone)
    return True


def remove_left_behind(output_base: Path) -> None:
    """What an earlier removal renamed, and was killed before it had removed it."""
    for path in output_base.glob(f"*/{REMOVED}run_*"):
        shutil.rmtree(path, ignore_errors=True)


def _give_up() -> None:
    raise _BusyError
