"""Requirements on another machine: code and versions that make a task give the same bytes there."""

import platform
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

from mlops.files.atomic import content_hash


@dataclass(frozen=True, kw_only=True)
class Requirements:
    """Facts that must be the same on another machine."""

    shared_file: str  # written just now, below the current directory or DVC's root
    versions: Mapping[str, str]  # of Python, the processor, and distributions by their names
    code: str  # the directory of the repository's code
    sources: Mapping[str, str]  # sha256 by paths below it


def own_requirements(code: Path, shared_file: Path) -> Requirements:
    """Return all code that this process has imported by now, and from which libraries."""
    modules = dict(sys.modules)
    files = {getattr(module, "__file__", None) for module in modules.values()}
    sources = sorted(Path(file) for file in files if file and Path(file).is_relative_to(code))
    names = packages_distributions()
    # Every start of Python may import a private module of setuptools.
    used = {name for module in modules if module[0] != "_" for name in names.get(module, [])}
    return Requirements(
        shared_file=str(shared_file),
        versions=_versions(sorted(used)),
        code=str(code),
        sources={
            path.relative_to(code).as_posix(): content_hash(path)
            for path in sources
            if path.suffix == ".py" and "site-packages" not in path.parts
        },
    )


def unmet_requirements(wanted: Requirements) -> list[str]:
    """Return what this process finds otherwise: expected, got and what to do."""
    place = platform.node()
    if not Path(wanted.shared_file).is_file():
        return [
            f"{place}: expected {wanted.shared_file}, which the stage has just written, found no "
            "such file; put the clone on a file system that all machines share, at one path"
        ]
    found = _versions(wanted.versions)
    faults = [
        f"{place}: expected {name} {expected}, got {found[name]}; start the Dask workers with the "
        "virtual environment of the stage"
        for name, expected in wanted.versions.items()
        if found[name] != expected
    ]
    for name, sha256 in wanted.sources.items():
        path = Path(wanted.code, name)
        if not path.is_file() or content_hash(path) != sha256:
            faults.append(
                f"{place}: expected the stage's own {name}, got another; wait until nothing "
                "writes to the clone and run the same command again"
            )
    return faults


def _versions(distributions: Iterable[str]) -> dict[str, str]:
    versions = {name: _version(name) for name in distributions}
    return versions | {"Python": platform.python_version(), "processor": platform.machine()}


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "none"
