"""Records of the runs below runs/, one per run."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlops.errors import PipelineError
from mlops.files.canonical import canonical_json, flatten
from mlops.metrics.log import LOG, Extremes, read_extremes
from mlops.run.attempts import run_status
from mlops.run.documents import RunStatus, read_config, read_metadata, run_directories

VAL = "val"  # the phase that finds the best epoch


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run as it was when it was read; what is not recorded is empty or None."""

    path: Path
    status: RunStatus
    metadata: Mapping[str, Any]
    parameters: Mapping[str, Any]  # of config.json, by dotted key
    extremes: Sequence[Extremes]  # of the log

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def experiment(self) -> str:
        return self.path.parent.name

    @property
    def attempts(self) -> Sequence[Mapping[str, Any]]:
        attempts: Sequence[Mapping[str, Any]] = self.metadata.get("attempts", [])
        return attempts

    @property
    def environment(self) -> Mapping[str, Any]:
        """The commit, versions and machine of the last attempt, which ended the run."""
        return self.attempts[-1].get("environment", {}) if self.attempts else {}

    @property
    def inputs(self) -> Mapping[str, str]:
        """The md5 of each file that the run read, as DVC names it."""
        inputs: Mapping[str, str] = self.metadata.get("inputs_md5", {})
        return inputs

    @property
    def published(self) -> Mapping[str, str]:
        """The md5 of each file that the run has published."""
        published: Mapping[str, str] = self.metadata.get("published", {})
        return published

    @property
    def host(self) -> str | None:
        return self.attempts[-1]["host"] if self.attempts else None

    @property
    def monitor(self) -> str | None:
        """The metric by which epochs are compared."""
        return self.parameters.get("train.monitor")

    @property
    def num_epochs(self) -> int:
        """The epochs that have been validated."""
        return max((item.last_epoch + 1 for item in self.extremes if item.phase == VAL), default=0)

    @property
    def last_seen(self) -> datetime | None:
        """The last time that the run was known to be at work; None before its first attempt."""
        return self._end(self.attempts[-1]) if self.attempts else None

    @property
    def duration_sec(self) -> float:
        """The duration of all attempts; one without an end lasts to its last sign of life."""
        return sum(
            (self._end(attempt) - datetime.fromisoformat(attempt["started"])).total_seconds()
            for attempt in self.attempts
        )

    def best(self, phase: str, metric: str) -> float | None:
        """Return the best finite value of a metric in the log."""
        for item in self.extremes:
            if (item.phase, item.metric) == (phase, metric):
                return item.max if is_maximized(metric) else item.min
        return None

    def _end(self, attempt: Mapping[str, Any]) -> datetime:
        if attempt["ended"]:
            return datetime.fromisoformat(attempt["ended"])
        started = datetime.fromisoformat(attempt["started"])
        try:
            seen = (self.path / "heartbeat").stat().st_mtime
        except FileNotFoundError:
            return started
        # The times of attempts are whole seconds, that of the heartbeat is not.
        return max(started, datetime.fromtimestamp(seen, UTC))


def is_maximized(metric: str) -> bool:
    """Return whether greater values of a metric are better.

    >>> is_maximized("balanced_accuracy"), is_maximized("val_loss")
    (True, False)
    """
    return not metric.endswith("loss")


def read_records(
    output_base: Path,
    experiment: str | None = None,
    *,
    warn: Callable[[str], None] = lambda fault: print(fault, file=sys.stderr),
) -> list[RunRecord]:
    """Read the runs below `output_base`, newest last; `warn` is told of each that is damaged."""
    paths = run_directories(output_base, experiment or "*")
    if experiment and not paths:
        known = sorted({path.parent.name for path in run_directories(output_base)})
        raise PipelineError(
            f"{output_base / experiment}: expected runs of this experiment, found none; there are "
            f"those of {', '.join(known) or 'no experiment: dvc repro makes one'}"
        )
    records: list[RunRecord] = []
    for path in paths:
        try:
            records.append(read_record(path))
        except PipelineError as error:
            warn(str(error))
    return records


def read_record(path: Path) -> RunRecord:
    """Read a run; a `PipelineError` names the file that is damaged."""
    config = _if_there(read_config, path)
    params = config.get("params")
    metadata = _if_there(read_metadata, path)
    return RunRecord(
        path=path,
        metadata=metadata,
        # Asked only of one whose record can be read; one without is being made, or was killed so.
        status=run_status(path),
        # A notebook logs a whole RunConfig: its parameters, and where its run is.
        parameters=flatten(params if isinstance(params, dict) else config),
        extremes=_read_log(path / LOG) if metadata else [],
    )


def _if_there(read: Callable[[Path], dict[str, Any]], run_dir: Path) -> dict[str, Any]:
    try:
        return read(run_dir)
    except FileNotFoundError:
        return {}


def _read_log(log: Path) -> list[Extremes]:
    try:
        return read_extremes(log)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise PipelineError(
            f"{log}: expected the log of a run, got a damaged file ({error.strerror}); restore "
            "it, or move the run's directory away"
        ) from None


def differing_parameters(records: Sequence[RunRecord]) -> list[str]:
    """Return the keys whose values differ between two records, in the order of config.json.

    A key that an older record lacks does not differ by that alone.
    """
    values: dict[str, set[str]] = {}
    for record in reversed(records):
        for key, value in record.parameters.items():
            values.setdefault(key, set()).add(canonical_json(value))
    return [key for key, different in values.items() if len(different) > 1]
