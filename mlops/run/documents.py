"""Run directories below runs/, and the two documents that each of them keeps about itself.

| moment in the life of a run  | metadata.json                            | config.json |
| ---------------------------- | ---------------------------------------- | ----------- |
| it gets its name             | `run_id`                                 | none        |
| a training is identified     | and fingerprint, status, md5 of inputs   | is written before them |
| an attempt begins or ends    | and attempts, status                     | stays       |
| it has published             | and what it published                    | stays       |

A directory without a metadata.json that has its name in `run_id` was made by something else, or by
code of before this rule. The run of a notebook has no fingerprint; it may have a config.json.
"""

import re
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from mlops.errors import PipelineError

RunStatus = Literal["running", "finished", "failed", "interrupted", "dead"]

RUN_ID = re.compile(r"run_\d{8}_\d{6}_\w{1,8}", re.ASCII)

METADATA, CONFIG = "metadata.json", "config.json"

_Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class DamagedRecordError(PipelineError):
    """A document of a run is there, but cannot be what the run wrote."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"{path}: expected the record of a run, got a damaged file ({reason}); restore the "
            "file, or move the run's directory away"
        )
        self.reason = f"{path.name}: {reason}"


class _Attempt(msgspec.Struct):
    number: int
    started: _Moment
    ended: _Moment | None
    reason: str | None
    host: str
    environment: dict[str, Any] = {}


class _Fingerprint(msgspec.Struct):
    config: str = ""
    inputs: dict[str, Any] = {}
    code: dict[str, Any] = {}
    versions: dict[str, Any] = {}
    device: str = ""


class _StageTime(msgspec.Struct):
    took_sec: float
    recorded: str


class _CellRun(msgspec.Struct):
    history: str
    run: str | None


class _Metadata(msgspec.Struct):
    """Entries that readers rely on; each may be absent, and there may be others."""

    run_id: str = ""
    status: RunStatus = "running"
    fingerprint: _Fingerprint | None = None
    inputs_md5: dict[str, str] = {}
    attempts: list[_Attempt] = []
    published: dict[str, str] = {}
    goes_on_from: dict[str, Any] | None = None
    stages: dict[str, _StageTime] = {}
    cells: dict[str, _CellRun] = {}


class _Config(msgspec.Struct):
    config: dict[str, Any]


def run_directories(output_base: Path, experiment: str = "*") -> list[Path]:
    """Return the directories that are named as runs are, oldest first.

    Locks, files and other directories that lie below `output_base` are left out.
    """
    found = (
        path
        for path in output_base.glob(f"{experiment}/run_*")
        if RUN_ID.fullmatch(path.name) and not path.parent.name.startswith(".") and path.is_dir()
    )
    return sorted(found, key=lambda path: path.name)


def read_metadata(run_dir: Path) -> dict[str, Any]:
    """Read metadata.json; raise `DamagedRecordError`, or `FileNotFoundError` if it is not there."""
    return _read(run_dir / METADATA, _Metadata)


def read_config(run_dir: Path) -> dict[str, Any]:
    """Read the configuration in config.json, with the errors of `read_metadata`."""
    config: dict[str, Any] = _read(run_dir / CONFIG, _Config)["config"]
    return config


def check_metadata(document: dict[str, Any]) -> None:
    """Raise `PipelineError` if readers could make nothing of an entry."""
    try:
        msgspec.convert(document, _Metadata)
    except msgspec.ValidationError as error:
        raise PipelineError(
            f"{METADATA}: expected an entry that readers of runs understand, got another "
            f"({error}); give it another name"
        ) from None


def _read(path: Path, kind: type[msgspec.Struct]) -> dict[str, Any]:
    try:
        content = path.read_bytes()
        msgspec.json.decode(content, type=kind)
        document: dict[str, Any] = msgspec.json.decode(content)
    except FileNotFoundError:
        if path.is_symlink():
            raise DamagedRecordError(path, "a symbolic link to nothing") from None
        raise
    except OSError as error:
        raise DamagedRecordError(path, error.strerror or str(error)) from None
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise DamagedRecordError(path, str(error)) from None
    return document
