"""Check of this machine and this clone: what is missing, and what to do about it.

Exits with 1 if something must be done. Nothing is changed: temporary files, below runs/ to try its
locks and in a folder that is a remote, are made and removed.
"""

import configparser
import fcntl
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import click

from mlops.errors import PipelineError
from mlops.files.places import runs_root
from mlops.files.tables import aligned, listed, size
from mlops.processes.progress import counted
from mlops.recorded.dvc_cache import ask_dvc, cache_directory
from mlops.recorded.dvc_yaml import PIPELINE
from mlops.recorded.foreign import ADVICE, foreign_files
from mlops.run.environment import gpu

REQUIREMENTS = Path("requirements.lock")
INSTALL = f"python -m pip install -r {REQUIREMENTS}"

PARAMS = "params.yaml"
TAKE_BACK = f"git checkout HEAD -- {PARAMS} dvc.lock metrics.json && dvc checkout"
QUEUED_TRIAL = "refs/exps/stash"

REMOTE_TIMEOUT_SEC = 30.0
REMOTE_ADVICE = "look at the URL, the network and the credentials (docs/restoring.md)"
# DVC's own files of settings; what is in a user's home is named from elsewhere anyway.
DVC_SETTINGS = (Path(".dvc/config"), Path(".dvc/config.local"))

MIN_DISK_BYTES = 2e9
MIN_MEMORY_BYTES = 2e9
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")

OK, HINT, WRONG = "ok", "hint", "DO"  # a hint may be left, what is wrong must be mended


class Finding(NamedTuple):
    level: str
    subject: str
    found: str
    advice: str = ""

    @property
    def text(self) -> str:
        return f"{self.found}; {self.advice}" if self.advice else self.found


Findings = Iterator[Finding]


@click.command(help=__doc__)
@click.option("--torch", "with_torch", is_flag=True, help="Import torch, which takes seconds.")
@click.option("--remote", "ask", is_flag=True, help="Ask DVC's remotes, over the network.")
@click.option("--outs", "outs_alone", is_flag=True, help="Only look for files of yours in outs.")
def command(with_torch: bool, ask: bool, outs_alone: bool) -> None:
    found = list(outs() if outs_alone else all_checks(with_torch=with_torch, ask=ask))
    if not outs_alone:
        rows = [[finding.level, finding.subject, finding.text] for finding in found]
        print(aligned(["", "what", "found"], rows))
    if wrong := [f"{one.subject}: {one.text}" for one in found if one.level == WRONG]:
        raise PipelineError(*wrong)
    if not outs_alone:
        print(f"\n{counted(len(found), 'check')}, nothing that must be done")


def all_checks(*, with_torch: bool, ask: bool) -> Findings:
    """Yield what is found in the current directory, the root of the repository."""
    cache = cache_directory()
    yield Finding(OK, "python", f"{platform.python_version()} in {sys.prefix}")
    yield from packages()
    yield from torch_and_gpus(with_torch=with_torch)
    yield from git()
    yield from left_by_trials()
    yield from dvc(cache)
    if cache is not None:
        yield from remotes(ask=ask)
        yield disk_space("disk of DVC's cache", cache)
    if PIPELINE.is_file():
        yield from outs()
    yield disk_space("disk of runs/", runs_root())
    yield file_locks(runs_root())
    yield memory()


def packages() -> Findings:
    """Compare what is installed with what requirements.lock pins."""
    subject = str(REQUIREMENTS)
    if not REQUIREMENTS.is_file():
        advice = f"run from the root of the repository, or git checkout HEAD -- {REQUIREMENTS}"
        yield Finding(WRONG, subject, "found no such file", advice)
        return
    pins = re.findall(
        r"^([\w.-]+)==([^\s;]+)", REQUIREMENTS.read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    # A build of torch for a CPU calls itself 2.15.0+cpu.
    differing = [
        f"{name} {pin} (installed: {installed or 'none'})"
        for name, pin in pins
        if (installed := installed_version(name)) is None or installed.partition("+")[0] != pin
    ]
    if not differing:
        yield Finding(OK, subject, f"all {len(pins)} packages as pinned")
        return
    found = f"{len(differing)} of {len(pins)} packages are not as pinned: {listed(differing)}"
    yield Finding(WRONG, subject, found, INSTALL)


def torch_and_gpus(*, with_torch: bool) -> Findings:
    """Name torch and the GPUs; with `with_torch`, ask torch whether it can use them."""
    installed, gpus = installed_version("torch"), gpu()
    if installed is None:
        yield Finding(WRONG, "torch", "not installed", INSTALL)
        return
    names = f"{', '.join(gpus['names'])}, driver {gpus['driver']}" if gpus else "no GPU"
    found = f"{installed}; {names}"
    if not with_torch:
        yield Finding(OK, "torch", found)
        return
    torch = import_module("torch")
    cuda = torch.version.cuda
    found += f"; built for {f'CUDA {cuda}' if cuda else 'CPUs alone'}"
    if gpus and not torch.cuda.is_available():
        newer = "install a newer NVIDIA driver, or a torch for this one"
        advice = newer if cuda else "install torch from an index of CUDA builds"
        yield Finding(WRONG, "torch", f"{found}; it cannot use the GPU", advice)
    else:
        yield Finding(OK, "torch", found)


def git() -> Findings:
    found = output("git", "--version") or "found no program on PATH"
    if output("git", "rev-parse", "--git-dir") is None:
        advice = "install it, and run from the root of the repository"
        yield Finding(WRONG, "git", f"{found}; this is no repository", advice)
    else:
        yield Finding(OK, "git", found)


def left_by_trials() -> Findings:
    """Find what a killed `dvc exp run` leaves in git, where later trials take it up."""
    branch = ""
    if output("git", "rev-parse", "HEAD") and not output("git", "branch", "--show-current"):
        # The one that was checked out before, by git's own record.
        branch = output("git", "rev-parse", "--abbrev-ref", "@{-1}") or "BRANCH"
        found = "on no branch, as a killed dvc exp run leaves it: commits go on none"
        advice = f"git checkout {branch} && dvc checkout, if it is not meant"
        yield Finding(HINT, "HEAD", found, advice)
    if output("git", "diff", "--cached", "--name-only", "HEAD", "--", PARAMS):
        back = f"git reset --quiet && {branch and f'git checkout {branch} && '}{TAKE_BACK}"
        found = "values are staged that HEAD does not have, as a killed dvc exp run leaves them"
        advice = f"to take them back, if no dvc is at work: {back}"
        yield Finding(HINT, PARAMS, found, advice)
    if output("git", "for-each-ref", QUEUED_TRIAL):
        found = "a trial that was killed before it began: the next dvc exp run runs it too"
        advice = f"if no dvc is at work: git update-ref -d {QUEUED_TRIAL}"
        yield Finding(HINT, QUEUED_TRIAL, found, advice)


def dvc(cache: Path | None) -> Findings:
    installed = installed_version("dvc")
    if cache is not None:
        yield Finding(OK, "DVC", f"{installed}, cache {cache}")
    else:
        found = f"{installed or 'not installed'}; it names no cache for this directory"
        advice = "run from the root of the repository; dvc status tells what is wrong"
        yield Finding(WRONG, "DVC", found, advice)


def remotes(*, ask: bool) -> Findings:
    """Check DVC's remotes, folders at once, others on the network only if asked to."""
    # Not by `dvc remote list`, which breaks long lines as for a terminal.
    settings = "\n".join(ask_dvc("config", "--list"))
    urls = dict(re.findall(r"^remote\.(.+)\.url=(.*)$", settings, re.MULTILINE))
    if not urls:
        found = "none: data and models are on this disk alone"
        yield Finding(HINT, "DVC remote", found, "dvc remote add --default NAME URL, then dvc push")
    relative = relative_remotes(DVC_SETTINGS)
    for name, url in urls.items():
        subject = f"DVC remote {name}"
        if name in relative:
            found = f"{url} is named by a relative path, which dvc push --all-commits misreads"
            yield Finding(HINT, subject, found, f"dvc remote modify {name} url {url}")
        if "://" not in url:
            yield folder(subject, Path(url))
        elif ask:
            yield answer(subject, name, without_secrets(url))
        else:
            yield Finding(OK, subject, f"{without_secrets(url)}; --remote asks it")


def relative_remotes(files: Iterable[Path]) -> set[str]:
    """Return the names of remotes that are folders named by a path relative to .dvc.

    Of those `dvc push --all-commits` and its like make another folder: DVC reads the settings of
    each commit as if the repository lay at the root of the disk (treeverse/dvc issue 10054).
    """
    found = set()
    for file in files:
        settings = configparser.ConfigParser(strict=False, interpolation=None)
        settings.read(file, encoding="utf-8")
        for section in settings.sections():
            url = settings.get(section, "url", fallback="")
            named = re.fullmatch(r"'?remote \"(.+)\"'?", section)
            if named and url and "://" not in url and not Path(url).is_absolute():
                found.add(named[1])
    return found


def without_secrets(url: str) -> str:
    """Return the URL of a remote without user and password.

    >>> without_secrets("ssh://me:word@host/store"), without_secrets("s3://bucket/store")
    ('ssh://host/store', 's3://bucket/store')
    """
    return re.sub(r"(?<=://)[^/@]*@", "", url)


def folder(subject: str, path: Path) -> Finding:
    """Try to write to a remote that is a folder."""
    if not path.exists():
        advice = "mount it, if it is to be; else dvc push makes it"
        return Finding(HINT, subject, f"{path} is not there", advice)
    try:
        # Tried, for the rights alone do not tell: a server may map or refuse this user.
        with tempfile.TemporaryFile(dir=path, prefix=".doctor."):
            return disk_space(subject, path)
    except OSError as error:
        found = f"{path}: no file can be written ({error.strerror or error})"
        advice = "make it writable for you, or ask its owner; dvc pull works without"
        return Finding(WRONG, subject, found, advice)


def answer(subject: str, name: str, url: str) -> Finding:
    """List a remote on the network, with the packages and the credentials that there are."""
    command = [sys.executable, "-m", "dvc", "list-url", f"remote://{name}"]
    environment = os.environ | {"DVC_NO_ANALYTICS": "1"}
    try:
        listing = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=REMOTE_TIMEOUT_SEC,
        )
    except subprocess.TimeoutExpired:
        found = f"{url} gave no answer within {REMOTE_TIMEOUT_SEC:.0f} s"
        return Finding(WRONG, subject, found, REMOTE_ADVICE)
    if listing.returncode == 0:
        return Finding(OK, subject, f"{url} answers")
    errors = re.findall(r"^ERROR: (?:unexpected error - )?(.*)$", listing.stderr, re.MULTILINE)
    found = errors[0] if errors else f"exit code {listing.returncode}"
    if "does not exist" in found:
        advice = "dvc push fills it, if the bucket or the directory above is there"
        return Finding(HINT, subject, f"{url} has nothing yet", advice)
    return Finding(WRONG, subject, f"{url}: {found}", REMOTE_ADVICE)


def outs() -> Findings:
    """Find files that no stage has made in the directories that DVC clears."""
    if paths := foreign_files():
        found = f"expected only what the stages make, found {listed(paths)}"
        yield Finding(WRONG, "outs", f"{found}, which dvc repro removes", ADVICE)
    else:
        yield Finding(OK, "outs", "no files but those of the stages")


def disk_space(subject: str, path: Path, *, min_bytes: float = MIN_DISK_BYTES) -> Finding:
    """Check for room, and the right to write, where `path` is or will be."""
    # What is not there yet will be made on the disk of the nearest directory above that is.
    path = path.absolute()
    while not path.exists():
        path = path.parent
    usage = shutil.disk_usage(path)
    found = f"{size(usage.free)} of {size(usage.total)} free"
    if not os.access(path, os.W_OK):
        return Finding(WRONG, subject, f"{found}; not writable", f"make {path} writable")
    if usage.free < min_bytes:
        advice = (
            "make room: python -m commands runs gc --yes, dvc gc --workspace --all-commits "
            "--all-experiments"
        )
        return Finding(WRONG, subject, f"{found}, expected {size(round(min_bytes))}", advice)
    return Finding(OK, subject, found)


def file_locks(runs: Path) -> Finding:
    """Check that the second of two that lock one file is kept out, as two trainings must be."""
    subject = "locks below runs/"
    place = runs if runs.is_dir() else runs.absolute().parent
    found = "flock lets two in at once: two trainings could write one run"
    try:
        with (
            tempfile.NamedTemporaryFile(dir=place, prefix=".doctor.", suffix=".tmp") as first,
            Path(first.name).open("r+b") as second,
        ):
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return Finding(OK, subject, "flock keeps a second one out")
    except OSError as error:
        found = f"flock fails: {error.strerror or error}"
    advice = "put runs/ on a file system whose flock works: a local one, or NFS with locks"
    return Finding(WRONG, subject, found, advice)


def memory(limit_file: Path = CGROUP_LIMIT) -> Finding:
    """Check the memory of the machine, or of the container that this is."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    text = limit_file.read_text().strip() if limit_file.is_file() else ""
    limit = int(text) if text.isdigit() else total
    found = size(total) + (f", of which {size(limit)} for this container" if text.isdigit() else "")
    if min(total, limit) < MIN_MEMORY_BYTES:
        advice = "lower train.batch_size or raise train.micro_batches, and runtime.workers: 1"
        return Finding(HINT, "memory", found, advice)
    return Finding(OK, "memory", found)


def installed_version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def output(*command: str) -> str | None:
    """Return what a program prints; None if it fails or is not there."""
    try:
        answer = subprocess.run(
            command, encoding="utf-8", errors="replace", capture_output=True, check=False
        )
    except FileNotFoundError:
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
