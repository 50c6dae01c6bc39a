"""Table of all runs, one line per run."""

import json
from collections.abc import Sequence

from commands.runs.wording import DIGITS, document, duration, epochs, metric_text, text
from mlops.errors import PipelineError
from mlops.files.places import runs_root
from mlops.files.tables import aligned
from mlops.processes.progress import counted
from mlops.recorded.restore import Recorded
from mlops.run.records import RunRecord, differing_parameters, read_records
from stages.paths import CLIPS

MAX_PARAMETERS = 6  # columns


def list_runs(experiment: str | None, metric: str | None, phase: str, *, as_json: bool) -> None:
    records = read_records(runs_root(), experiment)
    if records and metric:
        check_logged(records, phase, metric)
    if as_json:
        print(json.dumps([document(record, phase, metric) for record in records], indent=2))
    elif records:
        print_table(records, phase, metric)
    else:
        print(f"{runs_root()}: no runs; dvc repro makes one")


def check_logged(records: Sequence[RunRecord], phase: str, metric: str) -> None:
    known = dict.fromkeys((item.phase, item.metric) for of in records for item in of.extremes)
    if (phase, metric) not in known:
        logged = ", ".join(f"{phase} {metric}" for phase, metric in known) or "nothing"
        raise PipelineError(
            f"--metric {metric}: expected one that a run has logged in phase {phase}, got another; "
            f"logged are {logged}"
        )


def print_table(records: Sequence[RunRecord], phase: str, metric: str | None) -> None:
    metrics = {metric or record.monitor for record in records} - {None}
    # Runs that monitor different metrics have one column, and each value its name.
    best = f"best {phase} {metrics.pop()}" if len(metrics) == 1 else f"best {phase}"
    differing = differing_parameters(records)
    shown = differing[:MAX_PARAMETERS]
    recorded = Recorded()
    header = ["", "run", "status", "epochs", best, *shown, "data", "took", "where"]
    rows = [
        [
            "*" if recorded.in_workspace(record.published) else "",
            record.id,
            record.status,
            epochs(record),
            best_text(record, phase, metric, named=len(metrics) > 0),
            *(text(record.parameters.get(key)) for key in shown),
            record.inputs.get(CLIPS.as_posix(), "")[:DIGITS],
            duration(record.duration_sec) if record.attempts else "",
            record.host or "",
        ]
        for record in records
    ]
    print(aligned(header, rows, numbers={"epochs", best, "took"}))
    if any(row[0] for row in rows):
        print("* made what the workspace's dvc.lock names")
    if more := len(differing) - len(shown):
        print(f"{counted(more, 'more parameter')} not the same in all of them: --json has them")


def best_text(record: RunRecord, phase: str, metric: str | None, *, named: bool) -> str:
    metric = metric or record.monitor
    value = None if metric is None else record.best(phase, metric)
    if value is None:
        return ""
    return f"{metric} {metric_text(value)}" if named else metric_text(value)
