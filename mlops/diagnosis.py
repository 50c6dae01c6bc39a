"""What a machine and a clone have of what the pipeline needs.

Nothing is changed: a temporary file below runs/ is made and removed to try its locks.
"""

import fcntl
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from mlops.cache import ask_dvc, cache_directory
from mlops.environment import gpu
from mlops.places import runs_root
from mlops.tables import size

LEAST_PYTHON = (3, 11)
REQUIREMENTS = Path("requirements.lock")
DECODERS = {"PyAV": "av", "OpenCV": "opencv-python-headless"}

LEAST_DISK_BYTES = 2e9
LEAST_MEMORY_BYTES = 2e9
MOST_NAMED = 3

Level = Literal["ok", "hint", "wrong"]
LEVELS: dict[Level, str] = {"ok": "ok", "hint": "hint", "wrong": "DO"}

CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """`advice` says what to do; a hint may be left, what is wrong must be mended."""

    level: Level
    subject: str
    said: str
    advice: str = ""


def findings(*, with_torch: bool) -> list[Finding]:
    """Of all that is looked at, in the current directory, the root of the repository."""
    cache = cache_directory()
    return [
        _python(),
        *_packages(),
        _torch(with_torch=with_torch),
        *_decoders(),
        _git(),
        *_dvc(cache),
        disk_space("disk of runs/", runs_root()),
        *([disk_space("disk of DVC's cache", cache)] if cache else []),
        file_locks(runs_root()),
        memory(),
    ]


def _python() -> Finding:
    said = f"{platform.python_version()} in {sys.prefix}"
    if sys.version_info < LEAST_PYTHON:
        wanted = ".".join(map(str, LEAST_PYTHON))
        advice = f"install Python {wanted} or newer and make the environment anew"
        return Finding(level="wrong", subject="python", said=said, advice=advice)
    return Finding(level="ok", subject="python", said=said)


def _packages() -> Iterator[Finding]:
    """Whether what requirements.lock pins is installed in these versions."""
    subject = str(REQUIREMENTS)
    if not REQUIREMENTS.is_file():
        advice = "run from the root of the repository, or git checkout requirements.lock"
        yield Finding(level="wrong", subject=subject, said="found no such file", advice=advice)
        return
    pins = re.findall(r"^([\w.-]+)==([^\s;]+)", REQUIREMENTS.read_text(), flags=re.MULTILINE)
    # A build of torch for a CPU calls itself 2.15.0+cpu.
    differing = [
        f"{name} {pin} (installed: {installed or 'none'})"
        for name, pin in pins
        if (installed := _version(name)) is None or installed.partition("+")[0] != pin
    ]
    if not differing:
        yield Finding(level="ok", subject=subject, said=f"all {len(pins)} packages as pinned")
        return
    named = ", ".join(differing[:MOST_NAMED])
    more = len(differing) - MOST_NAMED
    yield Finding(
        level="wrong",
        subject=subject,
        said=f"{len(differing)} of {len(pins)} packages are not as pinned: {named}"
        + (f" and {more} more" if more > 0 else ""),
        advice=f"python -m pip install -r {REQUIREMENTS}",
    )


def _torch(*, with_torch: bool) -> Finding:
    installed = _version("torch")
    if installed is None:
        advice = f"python -m pip install -r {REQUIREMENTS}"
        return Finding(level="wrong", subject="torch", said="not installed", advice=advice)
    if with_torch:
        torch = import_module("torch")
    found = gpu()
    names = ", ".join(found["names"]) if found else "no GPU"
    driver = f", driver {found['driver']}" if found else ""
    said = f"{installed}; {names}{driver}"
    if not with_torch:
        return Finding(level="ok", subject="torch", said=said)
    built = torch.version.cuda
    said += f"; built for {f'CUDA {built}' if built else 'CPUs alone'}"
    if found and not torch.cuda.is_available():
        advice = (
            "install a newer NVIDIA driver, or a torch for this one"
            if built
            else "install torch from an index of CUDA builds"
        )
        return Finding(
            level="wrong", subject="torch", said=f"{said}; it cannot use the GPU", advice=advice
        )
    return Finding(level="ok", subject="torch", said=said)


def _decoders() -> Iterator[Finding]:
    for name, distribution in DECODERS.items():
        if installed := _version(distribution):
            yield Finding(level="ok", subject=name, said=f"{distribution} {installed}")
        else:
            yield Finding(
                level="wrong",
                subject=name,
                said=f"{distribution} is not installed: videos cannot be read",
                advice=f"python -m pip install -r {REQUIREMENTS}",
            )


def _git() -> Finding:
    if shutil.which("git") is None:
        return Finding(
            level="wrong", subject="git", said="found no program on PATH", advice="install git"
        )
    said = _output("git", "--version") or "git"
    if _output("git", "rev-parse", "--git-dir") is None:
        advice = "run from the root of the repository, or git init"
        return Finding(
            level="wrong", subject="git", said=f"{said}; this is no repository", advice=advice
        )
    return Finding(level="ok", subject="git", said=said)


def _dvc(cache: Path | None) -> Iterator[Finding]:
    installed = _version("dvc")
    if installed is None:
        advice = f"python -m pip install -r {REQUIREMENTS}"
        yield Finding(level="wrong", subject="DVC", said="not installed", advice=advice)
        return
    if cache is None:
        yield Finding(
            level="wrong",
            subject="DVC",
            said=f"{installed}; it names no cache for this directory",
            advice="run from the root of the repository; dvc status tells what is wrong",
        )
        return
    yield Finding(level="ok", subject="DVC", said=f"{installed}, cache {cache}")
    remotes = [line.split()[0] for line in ask_dvc("remote", "list") if line.strip()]
    if remotes:
        yield Finding(level="ok", subject="DVC remote", said=", ".join(remotes))
    else:
        yield Finding(
            level="hint",
            subject="DVC remote",
            said="none: data and models are on this disk alone",
            advice="dvc remote add --default NAME URL, then dvc push",
        )


def disk_space(subject: str, path: Path, *, least_bytes: float = LEAST_DISK_BYTES) -> Finding:
    """Whether there is room, and the right to write, where `path` is or will be."""
    # What is not there yet will be made on the disk of the nearest directory above that is.
    path = path.absolute()
    while not path.exists():
        path = path.parent
    usage = shutil.disk_usage(path)
    said = f"{size(usage.free)} of {size(usage.total)} free"
    if not os.access(path, os.W_OK):
        advice = f"make {path} writable"
        return Finding(level="wrong", subject=subject, said=f"{said}; not writable", advice=advice)
    if usage.free < least_bytes:
        return Finding(
            level="wrong",
            subject=subject,
            said=f"{said}, expected {size(round(least_bytes))}",
            advice="make room: python -m mlops runs gc, dvc gc --all-commits --workspace",
        )
    return Finding(level="ok", subject=subject, said=said)


def file_locks(runs: Path) -> Finding:
    """Whether the second of two that lock one file is kept out, as two trainings must be."""
    subject = "locks below runs/"
    place = runs if runs.is_dir() else runs.absolute().parent
    advice = "put runs/ on a file system whose flock works: a local one, or NFS with locks"
    try:
        with (
            tempfile.NamedTemporaryFile(dir=place, prefix=".doctor.", suffix=".tmp") as first,
            Path(first.name).open("r+b") as second,
        ):
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return Finding(level="ok", subject=subject, said="flock keeps a second one out")
    except OSError as error:
        said = f"flock fails: {error.strerror or error}"
        return Finding(level="wrong", subject=subject, said=said, advice=advice)
    said = "flock lets two in at once: two trainings could write one run"
    return Finding(level="wrong", subject=subject, said=said, advice=advice)


def memory(limit_file: Path = CGROUP_LIMIT) -> Finding:
    """Of the machine, or of the container that this is."""
    page = os.sysconf("SC_PAGE_SIZE")
    total = os.sysconf("SC_PHYS_PAGES") * page
    limit = _memory_limit(limit_file)
    said = size(total) + ("" if limit is None else f", of which {size(limit)} for this container")
    if min(total, limit or total) < LEAST_MEMORY_BYTES:
        return Finding(
            level="hint",
            subject="memory",
            said=said,
            advice="lower train.batch_size or raise train.micro_batches, and runtime.workers: 1",
        )
    return Finding(level="ok", subject="memory", said=said)


def _memory_limit(file: Path) -> int | None:
    """Of the container; None without one."""
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _output(*command: str) -> str | None:
    answer = subprocess.run(command, text=True, capture_output=True, check=False)
    return answer.stdout.strip() if answer.returncode == 0 else None
