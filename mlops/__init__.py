"""Training beside DVC: typed parameters, run directories, tracker, checkpoints, resume.

Knows nothing of video and nothing of the stages. `python -m commands` answers questions about the
repository.
"""

from importlib import import_module
from typing import Any

# What a notebook takes from here, and the module of each. By name and only when asked for: an
# import would load Polars for the stages that need none, and count as code of every stage.
# __init__.pyi tells the type checker.
_HOMES = {
    "ExperimentTracker": "mlops.tracker",
    "RunConfig": "mlops.config",
    "build_mlops_pipeline": "mlops.pipeline",
    "create_run_directory": "mlops.run.directory",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
