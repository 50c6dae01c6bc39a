"""The runs below runs/: a table, one in full, several side by side, and their removal.

python -m mlops runs                       every run, newest last
python -m mlops runs show RUN              what made it, and what brings its results back
python -m mlops runs compare A B …         metrics, curves, parameters and data side by side
python -m mlops runs gc                    what could be removed; with --yes it is
"""

import argparse
import json
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlops import files
from mlops.config import canonical_json, flatten
from mlops.curves import curves_csv, curves_page, epoch_curves, limits, sparkline
from mlops.errors import PipelineError
from mlops.history import find_commit
from mlops.lineage import how_to_fetch
from mlops.places import runs_root
from mlops.progress import counted
from mlops.removal import Verdict, judge, remove, remove_left_behind
from mlops.restoring import Recorded
from mlops.run_records import (
    VAL,
    RunRecord,
    differing_parameters,
    is_maximized,
    read_record,
    read_records,
)
from mlops.runs import CHECKPOINTS, find_run
from mlops.tables import aligned, size

DIGITS = 8  # of a hash
MOST_PARAMETERS = 6  # columns of the table
MOST_FILES = 5  # named in one line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = __doc__
    as_json = "print all of it as JSON"
    parser.add_argument("--experiment", metavar="NAME", help="of this one alone")
    parser.add_argument("--metric", metavar="NAME", help="best value of this (train.monitor)")
    parser.add_argument("--phase", default=VAL, help="of the metric (val)")
    parser.add_argument("--json", action="store_true", help=as_json)
    questions = parser.add_subparsers(dest="question", metavar="{show,compare,gc}")

    name = "a run's id, or its directory below runs/"
    show = questions.add_parser("show", help="what made a run, and what brings its results back")
    show.add_argument("run", metavar="RUN", help=name)
    show.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help=as_json)

    compare = questions.add_parser("compare", help="several runs side by side")
    compare.add_argument("runs", metavar="RUN", nargs="+", help=name)
    compare.add_argument("--csv", type=Path, metavar="FILE", help="write all logged values there")
    compare.add_argument("--html", type=Path, metavar="FILE", help="write it with charts there")

    gc = questions.add_parser("gc", help="remove runs that are of no more use")
    gc.add_argument("--keep", type=int, default=3, metavar="N", help="of an experiment, newest (3)")
    gc.add_argument(
        "--older-than",
        type=float,
        metavar="DAYS",
        help="also dead, failed and interrupted runs that were last at work longer ago",
    )
    gc.add_argument("--yes", action="store_true", help="remove them; without it they are listed")


def main(options: argparse.Namespace) -> None:
    if options.question == "show":
        show_run(read_record(find_run(runs_root(), options.run)), as_json=options.json)
    elif options.question == "compare":
        compare_runs(options)
    elif options.question == "gc":
        collect(options)
    else:
        list_runs(options)


def list_runs(options: argparse.Namespace) -> None:
    records = read_records(runs_root(), options.experiment)
    if records and options.metric:
        check_logged(records, options.phase, options.metric)
    if options.json:
        rows = [document(record, options.phase, options.metric) for record in records]
        print(json.dumps(rows, indent=2))
    elif records:
        print_table(records, options.phase, options.metric)
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
    shown = differing[:MOST_PARAMETERS]
    header = ["run", "status", "epochs", best, *shown, "data", "took", "where"]
    rows = [
        [
            record.id,
            record.status,
            epochs(record),
            best_text(record, phase, metric, named=len(metrics) > 0),
            *(text(record.parameters.get(key)) for key in shown),
            (record.data_version or "")[:DIGITS],
            duration(record.duration_sec) if record.attempts else "",
            record.host or "",
        ]
        for record in records
    ]
    print(aligned(header, rows, numbers={"epochs", best, "took"}))
    if more := len(differing) - len(shown):
        print(f"{counted(more, 'more parameter')} not the same in all of them: --json has them")


def epochs(record: RunRecord) -> str:
    wanted = record.parameters.get("train.epochs")
    return f"{record.num_epochs}" if wanted is None else f"{record.num_epochs}/{wanted}"


def best_text(record: RunRecord, phase: str, metric: str | None, *, named: bool) -> str:
    metric = metric or record.monitor
    value = None if metric is None else record.best(phase, metric)
    if value is None:
        return ""
    return f"{metric} {figure(value)}" if named else figure(value)


def figure(value: float | None) -> str:
    """
    >>> figure(0.96667), figure(0.00002), figure(None)
    ('0.9667', '2e-05', '')
    """
    if value is None:
        return ""
    return f"{value:.3g}" if 0 < abs(value) < 1e-3 else f"{value:.4f}"


def text(value: Any) -> str:
    """A value of a configuration; nothing where there is none."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def duration(sec: float) -> str:
    """
    >>> duration(11), duration(754), duration(100_000)
    ('11 s', '12 min 34 s', '27 h 46 min')
    """
    whole = round(sec)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def document(record: RunRecord, phase: str, metric: str | None) -> dict[str, Any]:
    metric = metric or record.monitor
    return {
        "run": record.id,
        "experiment": record.experiment,
        "directory": str(record.path),
        "status": record.status,
        "epochs": record.num_epochs,
        "metric": metric,
        "phase": phase,
        "best": None if metric is None else record.best(phase, metric),
        "duration_sec": record.duration_sec,
        "host": record.host,
        "inputs_md5": dict(record.inputs),
        "published": dict(record.published),
        "parameters": dict(record.parameters),
    }


# Of one run


def show_run(record: RunRecord, *, as_json: bool) -> None:
    restore = how_to_restore(record)
    if as_json:
        whole = document(record, VAL, None) | {
            "metadata": dict(record.metadata),
            "restore": restore,
        }
        print(json.dumps(whole, indent=2))
        return
    print(f"{record.path}: {record.status}")
    print("\n".join(summary(record)))
    print("\nto restore what it published")
    print("\n".join(f"  {line}" for line in restore))
    print("\nattempts")
    print(attempts_table(record))
    print("\nread (md5, as dvc.lock has it)")
    print(pairs(record.inputs))
    print("\npublished (md5)")
    print(pairs(record.published))
    print("\nparameters")
    print(pairs(record.parameters))


def summary(record: RunRecord) -> list[str]:
    best = None if record.monitor is None else record.best(VAL, record.monitor)
    lines = [f"epochs {epochs(record)}, took {duration(record.duration_sec)}"]
    if best is not None:
        at = record.metadata.get("best_epoch")
        lines.append(
            f"best {VAL} {record.monitor} {figure(best)}"
            + (f", published from epoch {at}" if at is not None else "")
        )
    if goes_on := record.metadata.get("goes_on_from"):
        exact = "" if goes_on.get("exact", True) else ", inexactly"
        place = f"epoch {goes_on['epoch']}, step {goes_on['step']}"
        lines.append(f"goes on from {goes_on['run']}, {place}{exact}")
    return [*lines, f"commit {commit_text(record.environment.get('git'))}", *machine(record)]


def commit_text(git: Mapping[str, Any] | None) -> str:
    """Of the code that the last attempt ran."""
    if git is None:
        return "not known: there was no git repository, or an earlier version made the run"
    if git["dirty"] is None:
        return f"{git['commit']}; git took too long to tell whether files differed from it"
    if not git["dirty"]:
        return f"{git['commit']}, with no file changed"
    return f"{git['commit']}, with changes in {listed(git['changed'])}"


def listed(names: Sequence[str]) -> str:
    more = len(names) - MOST_FILES
    return ", ".join(names[:MOST_FILES]) + (f" and {more} more" if more > 0 else "")


def machine(record: RunRecord) -> list[str]:
    known = record.environment
    if not known:
        return []
    cpu, gpu = known["cpu"], known["gpu"]
    where = f"{known['host']}, {cpu['cores']} cores of {cpu['model']}"
    where += f", memory {size(known['memory_bytes'])}"
    where += f", GPU {', '.join(gpu['names'])} (driver {gpu['driver']})" if gpu else ", no GPU"
    versions = ", ".join(f"{name} {version}" for name, version in known["libraries"].items())
    lines = [f"machine {where}", f"versions python {known['python']}, {versions}"]
    if job := known["job"]:
        lines.append("job " + ", ".join(f"{name}={value}" for name, value in job.items()))
    return lines


def attempts_table(record: RunRecord) -> str:
    header = ["", "started", "ended", "host", "start", "reason"]
    rows = [
        [
            str(attempt["number"]),
            attempt["started"],
            attempt["ended"] or "",
            attempt["host"],
            attempt.get("start", ""),
            attempt["reason"] or ("at work" if record.status == "running" else "no end noted"),
        ]
        for attempt in record.attempts
    ]
    return aligned(header, rows) if rows else "  none"


def pairs(values: Mapping[str, Any]) -> str:
    width = max(map(len, values), default=0)
    return "\n".join(f"  {key:{width}}  {text(values[key])}" for key in values) or "  none"


def how_to_restore(record: RunRecord) -> list[str]:
    """Commands, and sentences where there is no command."""
    if not record.published:
        return [f"nothing was published: the run is {record.status}"]
    recorded = Recorded()
    holder = recorded.holder(record.published)
    if holder is None and not recorded.in_workspace(record.published):
        return [
            "no dvc.lock of any commit, branch, tag or experiment names all of it; the model is "
            f"also {record.path / CHECKPOINTS / 'best_model.pt'}",
            *code_of(record),
        ]
    lines = []
    if holder is not None:
        lines.append(f"git checkout {holder.commit.hash} && dvc checkout")
        if holder.experiment:
            lines.append(f"# or, into the present work tree: dvc exp apply {holder.experiment}")
    else:
        lines.append("dvc checkout  # the workspace's dvc.lock names it, and no commit does yet")
    if not recorded.is_cached(record.published):
        lines.append(f"# DVC's cache lacks some of it: {how_to_fetch()}")
    return lines


def code_of(record: RunRecord) -> list[str]:
    """Where the code is from which the run could be made again."""
    git = record.environment.get("git")
    if git is None:
        return []
    if find_commit(git["commit"]) is None:
        return [f"its code was that of {git['commit']}, which this repository does not have"]
    changed = "" if git["dirty"] is False else ", but for files that were changed"
    return [f"git checkout {git['commit']} has its code{changed}; dvc repro trains it again"]


# Of several runs


def compare_runs(options: argparse.Namespace) -> None:
    paths = list(dict.fromkeys(find_run(runs_root(), name) for name in options.runs))
    if len(paths) < 2:
        raise PipelineError(
            f"compare: expected two runs or more, got {paths[0]} alone; python -m mlops runs lists "
            "them"
        )
    if len(paths) > len(string.ascii_uppercase):
        raise PipelineError(
            f"compare: expected at most {len(string.ascii_uppercase)} runs, got {len(paths)}; name "
            "fewer"
        )
    records = [read_record(path) for path in paths]
    letters = string.ascii_uppercase[: len(records)]
    shown = comparison(records, letters)
    print(f"{shown}\n")
    if options.csv:
        files.write_text(options.csv, curves_csv(records))
        print(f"wrote {options.csv}")
    if options.html:
        names = {str(path): letter for path, letter in zip(paths, letters, strict=True)}
        files.write_text(options.html, curves_page(epoch_curves(records), names, shown))
        print(f"wrote {options.html}")


def comparison(records: Sequence[RunRecord], letters: str) -> str:
    legend = [
        [letter, record.id, record.experiment, record.status, epochs(record)]
        for letter, record in zip(letters, records, strict=True)
    ]
    parts = [
        aligned(["", "run", "experiment", "status", "epochs"], legend),
        metrics_table(records, letters),
        curves_table(records, letters),
        differences("parameter", [record.parameters for record in records], letters),
        differences("data (md5)", [shortened(record.inputs) for record in records], letters),
        differences("code", [code_parts(record) for record in records], letters),
    ]
    return "\n\n".join(part for part in parts if part)


def metrics_table(records: Sequence[RunRecord], letters: str) -> str:
    """Best and last value of every metric but those of single steps."""
    keys = dict.fromkeys(
        (item.phase, item.metric)
        for record in records
        for item in record.extremes
        if item.phase != "step"
    )
    rows = []
    for phase, metric in keys:
        found = [record.of(phase, metric) for record in records]
        last = [figure(item.last.value) if item else "" for item in found]
        if phase == VAL:
            best = [figure(record.best(phase, metric)) for record in records]
            kind = "greatest" if is_maximized(metric) else "least"
            rows.append([f"{phase} {metric}", kind, *best])
        rows.append([f"{phase} {metric}", "last", *last])
    return aligned(["metric", "", *letters], rows, numbers=letters)


def curves_table(records: Sequence[RunRecord], letters: str) -> str:
    lines = []
    for title, curves in epoch_curves(records).items():
        low, high = limits([value for _, values in curves.values() for value in values])
        lines.append([title, "", f"from {figure(low)} to {figure(high)}"])
        for letter, record in zip(letters, records, strict=True):
            if str(record.path) in curves:
                values = curves[str(record.path)][1]
                lines.append(["", letter, sparkline(values, low, high)])
    return aligned(["curve, by epoch", "", ""], lines) if lines else ""


def differences(title: str, values: Sequence[Mapping[str, Any]], letters: str) -> str:
    """The keys whose values are not the same in all runs."""
    keys = dict.fromkeys(key for of in values for key in of)
    rows = [
        [key, *(text(of.get(key)) for of in values)]
        for key in keys
        if len({canonical_json(of.get(key)) for of in values}) > 1
    ]
    return aligned([title, *letters], rows) if rows else f"{title}: the same"


def shortened(inputs: Mapping[str, str]) -> dict[str, str]:
    return {name: md5[:DIGITS] for name, md5 in inputs.items()}


def code_parts(record: RunRecord) -> dict[str, Any]:
    """Commit, source files, versions and device: what else decides a result."""
    fingerprint = record.metadata.get("fingerprint", {})
    git = record.environment.get("git")
    parts: dict[str, Any] = {"commit": git["commit"][:DIGITS] if git else None}
    parts |= {name: digest[:DIGITS] for name, digest in fingerprint.get("code", {}).items()}
    versions = {"versions": fingerprint.get("versions", {}), "device": fingerprint.get("device")}
    return parts | flatten(versions)


# Their removal


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
        print(f"{verdict.run.path}: {'removed' if gone else 'at work by now, left'}")


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
