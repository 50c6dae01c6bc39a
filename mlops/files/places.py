"""Directories in which a stage keeps what is not an out."""

import os
from pathlib import Path


def runs_root() -> Path:
    """Return `runs/` of the main repository, which DVC names to its stages as DVC_ROOT."""
    return Path(os.environ.get("DVC_ROOT", ".")) / "runs"
