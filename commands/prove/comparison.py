"""What two runs made, side by side: the outs' bytes, the log, the samples of every epoch."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands.prove.clone import Clone
from commands.prove.evidence import LEDGER, METADATA, METRICS, metadata
from mlops.errors import PipelineError
from mlops.files import atomic
from mlops.run.directory import FINISHED

Rows = list[dict[str, Any]]

LATEST = "checkpoints/latest_checkpoint.pt"


@dataclass(frozen=True, kw_only=True)
class Log:
    """What the directory of a finished run holds."""

    run: str  # its id
    metrics: Rows  # without the column `time`
    ledger: Rows | None  # None if the stage keeps none
    attempts: int | None  # None if the stage does not count them


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """All that one or more starts of the stage left, the last of which ran to its end."""

    recorded: Sequence[dict[str, str]]  # the outs' md5, once for every record of DVC
    damaged: Sequence[str]  # outs whose bytes are not those that DVC recorded
    logs: Sequence[Log]
    abandoned: Sequence[str]  # runs with a checkpoint that no start went on with


def read_outcome(clone: Clone, mode: str) -> Outcome:
    in_experiments = mode in ("temp", "queue")
    recorded = list(clone.recorded(in_experiments=in_experiments))
    finished: list[Path] = []
    unfinished: list[Path] = []
    for path in sorted(clone.runs.glob(f"*/run_*/{METADATA}")):
        of_status = finished if metadata(path.parent).get("status") == FINISHED else unfinished
        of_status.append(path.parent)
    if not recorded or not finished:
        raise PipelineError(
            f"{clone.root}: expected a finished run below runs/ and a record of "
            f"{clone.target.name}, got {len(finished)} and {len(recorded)}; look there"
        )
    return Outcome(
        recorded=recorded,
        damaged=[
            path
            for outs in recorded
            for path, md5 in outs.items()
            if not _is_whole(clone, path, md5, in_experiments=in_experiments)
        ],
        logs=[_read_log(run_dir) for run_dir in finished],
        abandoned=[run_dir.name for run_dir in unfinished if (run_dir / LATEST).exists()],
    )


def differences(reference: Outcome, killed: Outcome) -> list[str]:
    """A line each; none if all that `killed` made is what `reference` made."""
    expected, found = reference.recorded[0], []
    for outs in killed.recorded:
        for path, md5 in expected.items():
            if outs.get(path) != md5:
                found.append(f"{path}: expected md5 {md5}, got {outs.get(path, 'no such out')}")
    found += [
        f"{path}: expected the bytes that dvc.lock names, got others" for path in killed.damaged
    ]
    (log,) = reference.logs
    for other in killed.logs:
        found += _row_differences(f"{other.run}/{METRICS}", log.metrics, other.metrics)
        if log.ledger is None and other.ledger is None:
            continue
        found += _row_differences(f"{other.run}/{LEDGER}", log.ledger or [], other.ledger or [])
    found += [
        f"{run}: expected every start to go on with it, got a run that was left with a checkpoint"
        for run in killed.abandoned
    ]
    return list(dict.fromkeys(found))


def repeated_samples(ledger: Rows) -> int:
    """How many samples stand in their epoch more than once."""
    counts = Counter((row["epoch"], sample) for row in ledger for sample in row["samples"])
    return sum(count > 1 for count in counts.values())


def _row_differences(name: str, expected: Rows, got: Rows) -> list[str]:
    for number, (first, second) in enumerate(zip(expected, got, strict=False), start=1):
        if first != second:
            return [
                f"{name}: expected in row {number} {_shortened(first)}, got {_shortened(second)}"
            ]
    if len(expected) == len(got):
        return []
    following = (expected if len(expected) > len(got) else got)[min(len(expected), len(got))]
    return [
        f"{name}: expected {len(expected)} rows, got {len(got)}; the first that only one of them "
        f"has is {_shortened(following)}"
    ]


def _shortened(row: dict[str, Any]) -> str:
    text = json.dumps(row, separators=(",", ":"))
    return text if len(text) <= 200 else f"{text[:197]}..."


def _read_log(run_dir: Path) -> Log:
    attempts = metadata(run_dir).get("attempts")
    ledger = run_dir / LEDGER
    return Log(
        run=run_dir.name,
        metrics=[
            {name: value for name, value in row.items() if name != "time"}
            for row in _rows(run_dir / METRICS)
        ],
        ledger=_rows(ledger) if ledger.exists() else None,
        attempts=len(attempts) if isinstance(attempts, list) else attempts,
    )


def _rows(path: Path) -> Rows:
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            rows.append({"row": number, "is no JSON": line.decode(errors="replace")})
    return rows


def _is_whole(clone: Clone, path: str, md5: str, *, in_experiments: bool) -> bool:
    """Whether the out has the recorded bytes: in the workspace, or in the cache."""
    content = clone.objects / md5[:2] / md5[2:] if in_experiments else clone.root / path
    if md5.endswith(".dir"):
        return content.exists()
    return content.is_file() and atomic.md5(content) == md5
