"""The stage to kill, as dvc.lock records it."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlops.errors import PipelineError
from mlops.recorded.dvc_lock import recorded_stages

LOCK = "dvc.lock"


@dataclass(frozen=True, kw_only=True)
class Target:
    """`deps` maps the paths that the stage reads to their md5, a directory's with suffix `.dir`."""

    name: str
    command: tuple[str, ...]
    deps: Mapping[str, str]
    outs: tuple[str, ...]


def find_target(root: Path, name: str) -> Target:
    """The stage `name`, or the first of its cells: `train` finds `train@small3d-0-0`."""
    if not (root / LOCK).exists():
        raise PipelineError(
            f"{LOCK}: expected what DVC recorded of {name}, found no file; run dvc repro"
        )
    stages = recorded_stages((root / LOCK).read_bytes())
    cells = sorted(stage for stage in stages if stage == name or stage.startswith(f"{name}@"))
    if not cells:
        raise PipelineError(
            f"{LOCK}: expected a record of {name}, got {', '.join(sorted(stages)) or 'none'}; run "
            f"dvc repro {name} or choose another --target"
        )
    stage = stages[cells[0]]
    return Target(
        name=cells[0],
        command=tuple(shlex.split(stage.cmd)),
        deps=stage.read_md5s,
        outs=tuple(stage.made_md5s),
    )
