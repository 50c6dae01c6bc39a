"""Comparison of the results of two runs: the outs' bytes, the log, the samples of every epoch."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from commands.prove.clone import Clone
from commands.prove.evidence import LOGS, METADATA, metadata
from mlops.errors import PipelineError
from mlops.files import atomic
from mlops.run.directory import FINISHED

Row = Mapping[str, Any]

LATEST = "checkpoints/latest_checkpoint.pt"
MAX_SHOWN = 200  # characters of a row


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Everything that one or more starts of the stage left; the last one ran to its end."""

    recorded: Sequence[Mapping[str, str]]  # the outs' md5, once for every record of DVC
    damaged: Sequence[str]  # outs whose bytes are not those that DVC recorded
    # Of each finished run, by its id: the rows of metrics.jsonl and ledger.jsonl, without `time`.
    logs: Mapping[str, Mapping[str, Sequence[Row]]]
    abandoned: Sequence[str]  # runs with a checkpoint that no start went on with


def read_outcome(clone: Clone, mode: str) -> Outcome:
    in_experiments = mode in ("temp", "queue")
    recorded = list(clone.recorded(in_experiments=in_experiments))
    runs = [path.parent for path in sorted(clone.runs.glob(f"*/run_*/{METADATA}"))]
    finished = [run for run in runs if metadata(run).get("status") == FINISHED]
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
        logs={run.name: {name: _read_rows(run / name) for name in LOGS} for run in finished},
        abandoned=[run.name for run in runs if run not in finished and (run / LATEST).exists()],
    )


def differences(reference: Outcome, killed: Outcome) -> list[str]:
    """Return a line for each; none if all that `killed` made is what `reference` made."""
    return list(dict.fromkeys(_differences(reference, killed)))


def _differences(reference: Outcome, killed: Outcome) -> Iterator[str]:
    for outs in killed.recorded:
        for path, md5 in reference.recorded[0].items():
            if outs.get(path) != md5:
                yield f"{path}: expected md5 {md5}, got {outs.get(path, 'no such out')}"
    for path in killed.damaged:
        yield f"{path}: expected the bytes that dvc.lock names, got others"
    (expected,) = reference.logs.values()
    for run, logs in killed.logs.items():
        for name in LOGS:
            rows = zip_longest(expected[name], logs[name])
            for number, (first, second) in enumerate(rows, start=1):
                if first != second:
                    place = f"{run}/{name}: expected in row {number}"
                    yield f"{place} {_shortened(first)}, got {_shortened(second)}"
                    break
    for run in killed.abandoned:
        yield (
            f"{run}: expected every start to go on with it, got a run that was left with a "
            "checkpoint"
        )


def repeated_samples(ledger: Sequence[Row]) -> int:
    """Return how many samples stand in their epoch more than once."""
    counts = Counter((row["epoch"], sample) for row in ledger for sample in row["samples"])
    return sum(count > 1 for count in counts.values())


def _shortened(row: Row | None) -> str:
    text = "none" if row is None else json.dumps(row, separators=(",", ":"))
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."


def _read_rows(log: Path) -> list[Row]:
    lines = log.read_bytes().splitlines() if log.exists() else []
    return [_read_row(line) for line in lines]


def _read_row(line: bytes) -> Row:
    try:
        row = json.loads(line)
    except ValueError:
        return {"is no JSON": line.decode(errors="replace")}
    row.pop("time", None)
    return dict(row)


def _is_whole(clone: Clone, path: str, md5: str, *, in_experiments: bool) -> bool:
    """Return whether the out has the recorded bytes: in the workspace, or in the cache."""
    content = clone.objects / md5[:2] / md5[2:] if in_experiments else clone.root / path
    if md5.endswith(".dir"):
        return content.exists()
    return content.is_file() and atomic.md5(content) == md5
