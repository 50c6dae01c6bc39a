"""Comparison of several runs, side by side."""

import string
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from commands.runs.wording import DIGITS, epochs, metric_text, sparklines, text
from mlops.errors import PipelineError
from mlops.files.canonical import canonical_json, flatten
from mlops.files.tables import aligned
from mlops.metrics.log import read_runs
from mlops.run.records import VAL, RunRecord, is_maximized

LETTERS = string.ascii_uppercase


def compare_runs(records: Sequence[RunRecord]) -> None:
    if not 2 <= len(records) <= len(LETTERS):
        got = f"{records[0].path} alone" if len(records) == 1 else str(len(records))
        raise PipelineError(
            f"compare: expected 2 to {len(LETTERS)} runs, got {got}; python -m commands runs lists "
            "them"
        )
    letters = LETTERS[: len(records)]
    legend = [
        [letter, record.id, record.experiment, record.status, epochs(record)]
        for letter, record in zip(letters, records, strict=True)
    ]
    inputs = [{name: md5[:DIGITS] for name, md5 in of.inputs.items()} for of in records]
    parts = [
        aligned(["", "run", "experiment", "status", "epochs"], legend),
        aligned(["metric", "", *letters], metric_rows(records), numbers=letters),
        differences("parameter", [record.parameters for record in records], letters),
        differences("data (md5)", inputs, letters),
        differences("code", [code_parts(record) for record in records], letters),
    ]
    print("\n\n".join(parts) + "\n")


def metric_rows(records: Sequence[RunRecord]) -> list[list[str]]:
    """Return best value, last value and curve of every metric but those of single steps."""
    curves = [epoch_curves(record) for record in records]
    rows = []
    for phase, metric in dict.fromkeys(key for of in curves for key in of):
        found = [of.get((phase, metric), []) for of in curves]
        title = f"{phase} {metric}"
        if phase == VAL:
            best = [metric_text(record.best(phase, metric)) for record in records]
            rows.append([title, "max" if is_maximized(metric) else "min", *best])
        rows.append([title, "last", *(metric_text(curve[-1]) if curve else "" for curve in found)])
        rows.append([title, "by epoch", *sparklines(found)])
    return rows


def epoch_curves(record: RunRecord) -> dict[tuple[Any, ...], list[float]]:
    """Return the last value of each epoch, by phase and metric, without those of single steps."""
    rows = read_runs([record.path]).filter(pl.col("phase") != "step")
    last = rows.group_by("phase", "metric", "epoch", maintain_order=True).last()
    curves = last.group_by("phase", "metric", maintain_order=True)
    return {key: of.sort("epoch")["value"].to_list() for key, of in curves}


def differences(title: str, values: Sequence[Mapping[str, Any]], letters: str) -> str:
    """Return a table of the keys whose values are not the same in all runs."""
    rows = [
        [key, *(text(of.get(key)) for of in values)]
        for key in dict.fromkeys(key for of in values for key in of)
        if len({canonical_json(of.get(key)) for of in values}) > 1
    ]
    return aligned([title, *letters], rows) if rows else f"{title}: the same"


def code_parts(record: RunRecord) -> dict[str, Any]:
    """Return commit, source files, versions and device: what else decides a result."""
    fingerprint = record.metadata.get("fingerprint", {})
    git = record.environment.get("git")
    parts: dict[str, Any] = {"commit": git["commit"][:DIGITS] if git else None}
    parts |= {name: digest[:DIGITS] for name, digest in fingerprint.get("code", {}).items()}
    versions = {"versions": fingerprint.get("versions", {}), "device": fingerprint.get("device")}
    return parts | flatten(versions)
