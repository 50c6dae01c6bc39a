"""Tasks on their way to a process on another machine, and the process that does them.

The process is started in the clone by a Dask worker, and is not that worker itself: so it runs the
code as it is now, sees relative paths as the stage does, and may start processes, which a Dask
worker may not. Two clones can work on one cluster at once.
"""

import importlib
import os
import platform
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from io import BytesIO
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import FunctionType
from typing import Any

from mlops.files.atomic import content_hash

# After so long without a task a process ends; the next task starts another.
IDLE_SEC = 60.0


@dataclass(frozen=True, kw_only=True)
class Requirements:
    """What must be the same on another machine, for a task to give the same bytes there."""

    shared_file: str  # written just now, below the current directory or DVC's root
    python: str
    processor: str
    libraries: Mapping[str, str]  # versions by the names of distributions
    code: str  # the directory of the repository's code
    sources: Mapping[str, str]  # sha256 by paths below it


@dataclass(frozen=True)
class TaskResult:
    """What a task returned, or what it raised."""

    value: Any
    error: Exception | None = None


def own_requirements(code: Path, shared_file: Path) -> Requirements:
    """What this process is: all code that it has imported by now, and from which libraries."""
    modules = dict(sys.modules)
    files = {getattr(module, "__file__", None) for module in modules.values()}
    sources = sorted(Path(file) for file in files if file and Path(file).is_relative_to(code))
    names = packages_distributions()
    # Every start of Python may import a private module of setuptools.
    used = {name for module in modules if module[0] != "_" for name in names.get(module, [])}
    return Requirements(
        shared_file=str(shared_file),
        python=platform.python_version(),
        processor=platform.machine(),
        libraries={name: version(name) for name in sorted(used)},
        code=str(code),
        sources={
            path.relative_to(code).as_posix(): content_hash(path)
            for path in sources
            if path.suffix == ".py" and "site-packages" not in path.parts
        },
    )


def unmet_requirements(demands: Requirements) -> list[str]:
    """What this process finds otherwise: expected, got and what to do."""
    place = f"{platform.node()}, {Path.cwd()}"
    if not Path(demands.shared_file).is_file():
        return [
            f"{place}: expected {demands.shared_file}, which the stage has just written, found no "
            "such file; put the clone on a file system that all machines share, at one path"
        ]
    wanted = {"Python": demands.python, "processor": demands.processor, **demands.libraries}
    found = {
        "Python": platform.python_version(),
        "processor": platform.machine(),
        **{name: _version(name) for name in demands.libraries},
    }
    faults = [
        f"{place}: expected {name} {wanted[name]}, got {found[name] or 'none'}; start the Dask "
        "workers with the virtual environment of the stage"
        for name in wanted
        if found[name] != wanted[name]
    ]
    for name, sha256 in demands.sources.items():
        path = Path(demands.code, name)
        if not path.is_file() or content_hash(path) != sha256:
            faults.append(
                f"{place}: expected the stage's own {name}, got another; wait until nothing "
                "writes to the clone and run the same command again"
            )
    return faults


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def pack(item: Any) -> bytes:
    """`item` pickled for a process whose `__main__` is another."""
    buffer = BytesIO()
    _Pickler(buffer).dump(item)
    return buffer.getvalue()


def unpack(content: bytes) -> Any:
    return ForkingPickler.loads(content)


class _Pickler(ForkingPickler):
    def reducer_override(self, item: Any) -> Any:
        if isinstance(item, type | FunctionType) and item.__module__ == "__main__":
            # `python -m stages.NAME` is __main__ here alone.
            return _named, (sys.modules["__main__"].__spec__.name, item.__qualname__)  # type: ignore[union-attr]
        return NotImplemented


def _named(module: str, name: str) -> Any:
    return reduce(getattr, name.split("."), importlib.import_module(module))


def serve(descriptor: int) -> None:
    """Say what is unmet, then answer tasks until none comes any more.

    Ends at once when the process that started this one does: its end closes stdin.
    """
    threading.Thread(target=_end_with_starter, daemon=True).start()
    pipe = Connection(descriptor)
    try:
        pipe.send(unmet_requirements(unpack(pipe.recv_bytes())))
        while pipe.poll(IDLE_SEC):
            pipe.send_bytes(pack(_answer(pipe.recv_bytes())))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass


def _answer(content: bytes) -> TaskResult:
    try:
        function: Callable[[Any], Any]
        function, task = unpack(content)
        return TaskResult(function(task))
    except Exception as error:  # noqa: BLE001 - raised again where the stage runs
        error.add_note(f"on {platform.node()}:\n{traceback.format_exc()}")
        return TaskResult(None, error)


def _end_with_starter() -> None:
    sys.stdin.buffer.read()
    os._exit(1)
