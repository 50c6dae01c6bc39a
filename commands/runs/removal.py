"""The removal of runs that are of no more use."""

from mlops.files.places import runs_root
from mlops.files.tables import aligned, size
from mlops.processes.progress import counted
from mlops.recorded.restore import Recorded
from mlops.run.gc import judge, remove, remove_left_behind
from mlops.run.records import read_records


def remove_runs(
    experiment: str | None, keep: int, older_than_days: float | None, *, yes: bool
) -> None:
    """Print what becomes of each run and why; with `yes`, remove what can be removed."""
    records = read_records(runs_root(), experiment)
    verdicts = judge(records, Recorded(), keep=keep, older_than_days=older_than_days)
    rows = [
        ["remove" if one.removable else "keep", str(one.run.path), size(one.size_bytes), one.reason]
        for one in verdicts
    ]
    print(aligned(["", "run", "size", "why"], rows, numbers={"size"}))
    removable = [verdict for verdict in verdicts if verdict.removable]
    if not yes:
        total = size(sum(verdict.size_bytes for verdict in removable))
        print(f"\nwould remove {counted(len(removable), 'run')}, {total}; --yes removes them")
        return
    remove_left_behind(runs_root())
    for verdict in removable:
        gone = remove(runs_root(), verdict.run)
        print(f"{verdict.run.path}: {'removed' if gone else 'changed or at work by now, left'}")
