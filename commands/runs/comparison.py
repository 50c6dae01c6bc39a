"""Several runs side by side."""

import argparse
import string
from collections.abc import Mapping, Sequence
from typing import Any

from commands.runs.curves import curves_csv, curves_page, epoch_curves, limits, sparkline
from commands.runs.wording import DIGITS, epochs, figure, text
from mlops.errors import PipelineError
from mlops.files import atomic
from mlops.files.canonical import canonical_json, flatten
from mlops.files.places import runs_root
from mlops.files.tables import aligned
from mlops.run.directory import find_run
from mlops.run.records import VAL, RunRecord, is_maximized, read_record


def compare_runs(options: argparse.Namespace) -> None:
    paths = list(dict.fromkeys(find_run(runs_root(), name) for name in options.runs))
    if len(paths) < 2:
        raise PipelineError(
            f"compare: expected two runs or more, got {paths[0]} alone; python -m commands runs "
            "lists them"
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
        atomic.write_text(options.csv, curves_csv(records))
        print(f"wrote {options.csv}")
    if options.html:
        names = {str(path): letter for path, letter in zip(paths, letters, strict=True)}
        atomic.write_text(options.html, curves_page(epoch_curves(records), names, shown))
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
