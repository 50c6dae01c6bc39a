"""The removal of runs that are of no more use."""

import argparse
from collections.abc import Sequence

from mlops.errors import PipelineError
from mlops.files.places import runs_root
from mlops.files.tables import aligned, size
from mlops.processes.progress import counted
from mlops.recorded.restore import Recorded
from mlops.run.gc import Verdict, judge, remove, remove_left_behind
from mlops.run.records import read_records


def collect(options: argparse.Namespace) -> None:
    if options.keep < 0 or (options.older_than or 0.0) < 0:
        raise PipelineError("gc: expected --keep and --older-than of 0 or more, got less")
    records = read_records(runs_root(), options.experiment)
    verdicts = judge(records, Recorded(), keep=options.keep, older_than_days=options.older_than)
    print_verdicts(verdicts)
    removable = [verdict for verdict in verdicts if verdict.removable]
    total = size(sum(verdict.size_bytes for verdict in removable))
    if not options.yes:
        print(f"\nwould remove {counted(len(removable), 'run')}, {total}; --yes removes them")
        return
    remove_left_behind(runs_root())
    for verdict in removable:
        gone = remove(runs_root(), verdict.run)
        print(f"{verdict.run.path}: {'removed' if gone else 'changed or at work by now, left'}")


def print_verdicts(verdicts: Sequence[Verdict]) -> None:
    rows = [
        [
            "remove" if verdict.removable else "keep",
            str(verdict.run.path),
            size(verdict.size_bytes),
            verdict.reason,
        ]
        for verdict in verdicts
    ]
    print(aligned(["", "run", "size", "why"], rows, numbers={"size"}))
