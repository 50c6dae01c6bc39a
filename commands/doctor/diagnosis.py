"""What a machine and a clone have of what the pipeline needs.

Nothing is changed: temporary files, below runs/ to try its locks and in a folder that is a remote,
are made and removed.
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

from commands.doctor.remotes import relative_remotes, remotes, without_secrets
from mlops.files.places import runs_root
from mlops.files.tables import size
from mlops.recorded.dvc_cache import cache_directory
from mlops.recorded.foreign import ADVICE, PIPELINE, foreign_files, listed
from mlops.run.environment import gpu

MIN_PYTHON = (3, 11)
REQUIREMENTS = Path("requirements.lock")
DECODERS = {"PyAV": "av", "OpenCV": "opencv-python-headless"}

# The package dvc-NAME that DVC needs for a URL, dvc[NAME] for pip; http comes with DVC.
EXTRAS = {name: name for name in ("s3", "ssh", "gs", "azure", "oss", "hdfs", "webhdfs", "gdrive")}
EXTRAS |= {"webdav": "webdav", "webdavs": "webdav"}
REMOTE_PATIENCE_SEC = 30.0
REMOTE_ADVICE = "look at the URL, the network and the credentials (docs/restoring.md)"

PARAMS = "params.yaml"
TAKE_BACK = f"git checkout HEAD -- {PARAMS} dvc.lock metrics.json && dvc checkout"
QUEUED_TRIAL = "refs/exps/stash"

MIN_DISK_BYTES = 2e9
MIN_MEMORY_BYTES = 2e9
MAX_NAMED = 3

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


def findings(*, with_torch: bool, ask_remotes: bool) -> list[Finding]:
    """Of all that is looked at, in the current directory, the root of the repository."""
    cache = cache_directory()
    return [
        _python(),
        *_packages(),
        _torch(with_torch=with_torch),
        *_decoders(),
        _git(),
        *(_left_by_trials() if shutil.which("git") else []),
        *_dvc(cache),
        *(_remotes(ask=ask_remotes) if cache else []),
        *([outs()] if PIPELINE.is_file() else []),
        disk_space("disk of runs/", runs_root()),
        *([disk_space("disk of DVC's cache", cache)] if cache else []),
        file_locks(runs_root()),
        memory(),
    ]


def _python() -> Finding:
    said = f"{platform.python_version()} in {sys.prefix}"
    if sys.version_info < MIN_PYTHON:
        wanted = ".".join(map(str, MIN_PYTHON))
        advice = f"install Python {wanted} or newer and make the environment anew"
        return Finding(level="wrong", subject="python", said=said, advice=advice)
    return Finding(level="ok", subject="python", said=said)


def _packages() -> Iterator[Finding]:
    """Whether what requirements.lock pins is installed in these versions."""
    subject = str(REQUIREMENTS)
    if not REQUIREMENTS.is_file():
        advice = "run from the root of the repository, or git checkout HEAD -- requirements.lock"
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
    named = ", ".join(differing[:MAX_NAMED])
    more = len(differing) - MAX_NAMED
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


def _left_by_trials() -> Iterator[Finding]:
    """Tell what a killed `dvc exp run` leaves in git, where later trials take it up."""
    branch = ""
    if _output("git", "rev-parse", "HEAD") and not _output("git", "branch", "--show-current"):
        # The one that was checked out before, by git's own record.
        branch = _output("git", "rev-parse", "--abbrev-ref", "@{-1}") or "BRANCH"
        yield Finding(
            level="hint",
            subject="HEAD",
            said="on no branch, as a killed dvc exp run leaves it: commits go on none",
            advice=f"git checkout {branch} && dvc checkout, if it is not meant",
        )
    if _output("git", "diff", "--cached", "--name-only", "HEAD", "--", PARAMS):
        back = f"git reset --quiet && {branch and f'git checkout {branch} && '}{TAKE_BACK}"
        yield Finding(
            level="hint",
            subject=PARAMS,
            said="values are staged that HEAD does not have, as a killed dvc exp run leaves them",
            advice=f"to take them back, if no dvc is at work: {back}",
        )
    if _output("git", "for-each-ref", QUEUED_TRIAL):
        yield Finding(
            level="hint",
            subject=QUEUED_TRIAL,
            said="a trial that was killed before it began: the next dvc exp run runs it too",
            advice=f"if no dvc is at work: git update-ref -d {QUEUED_TRIAL}",
        )


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


def _remotes(*, ask: bool) -> Iterator[Finding]:
    found = remotes()
    if not found:
        yield Finding(
            level="hint",
            subject="DVC remote",
            said="none: data and models are on this disk alone",
            advice="dvc remote add --default NAME URL, then dvc push",
        )
    relative = relative_remotes()
    for name, url in found.items():
        subject, shown = f"DVC remote {name}", without_secrets(url)
        scheme = url.partition("://")[0] if "://" in url else None
        if name in relative:
            yield Finding(
                level="hint",
                subject=subject,
                said=f"{url} is named by a relative path, which dvc push --all-commits misreads",
                advice=f"dvc remote modify {name} url {url}",
            )
        if scheme is None:
            yield _folder(subject, Path(url))
        elif (extra := EXTRAS.get(scheme)) and _version(f"dvc-{extra}") is None:
            yield Finding(
                level="wrong",
                subject=subject,
                said=f"{shown}, for which dvc-{extra} is not installed",
                advice=f'python -m pip install "dvc[{extra}]"',
            )
        elif ask:
            yield _answer(subject, name, shown)
        else:
            yield Finding(level="ok", subject=subject, said=f"{shown}; --remote asks it")


def _folder(subject: str, folder: Path) -> Finding:
    if not folder.exists():
        return Finding(
            level="hint",
            subject=subject,
            said=f"{folder} is not there",
            advice="mount it, if it is to be; else dvc push makes it",
        )
    try:
        # Tried, for the rights alone do not tell: a server may map or refuse this user.
        with tempfile.TemporaryFile(dir=folder, prefix=".doctor."):
            pass
    except OSError as error:
        return Finding(
            level="wrong",
            subject=subject,
            said=f"{folder}: no file can be written ({error.strerror or error})",
            advice="make it writable for you, or ask its owner; dvc pull works without",
        )
    return disk_space(subject, folder)


def _answer(subject: str, name: str, url: str) -> Finding:
    """Whether a remote on the network can be listed with the credentials that there are."""
    try:
        answer = subprocess.run(
            [sys.executable, "-m", "dvc", "list-url", f"remote://{name}"],
            env=os.environ | {"DVC_NO_ANALYTICS": "1"},
            text=True,
            capture_output=True,
            timeout=REMOTE_PATIENCE_SEC,
            check=False,
        )
    except subprocess.TimeoutExpired:
        said = f"{url} gave no answer within {REMOTE_PATIENCE_SEC:.0f} s"
        return Finding(level="wrong", subject=subject, said=said, advice=REMOTE_ADVICE)
    if answer.returncode == 0:
        return Finding(level="ok", subject=subject, said=f"{url} answers")
    errors = re.findall(r"^ERROR: (?:unexpected error - )?(.*)$", answer.stderr, re.MULTILINE)
    said = errors[0] if errors else f"exit code {answer.returncode}"
    if "does not exist" in said:
        return Finding(
            level="hint",
            subject=subject,
            said=f"{url} has nothing yet",
            advice="dvc push fills it, if the bucket or the directory above is there",
        )
    return Finding(level="wrong", subject=subject, said=f"{url}: {said}", advice=REMOTE_ADVICE)


def outs() -> Finding:
    """Whether the directories that DVC clears hold files that no stage has made."""
    subject = "outs"
    if found := foreign_files():
        said = f"expected only what the stages make, found {listed(found)}, which dvc repro removes"
        return Finding(level="wrong", subject=subject, said=said, advice=ADVICE)
    return Finding(level="ok", subject=subject, said="no files but those of the stages")


def disk_space(subject: str, path: Path, *, least_bytes: float = MIN_DISK_BYTES) -> Finding:
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
            advice="make room: python -m commands runs gc --yes, "
            "dvc gc --workspace --all-commits --all-experiments",
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
    if min(total, limit or total) < MIN_MEMORY_BYTES:
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
