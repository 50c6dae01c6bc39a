"""The machine and its Python: packages, torch, user, encoding, disks, locks and memory."""

import fcntl
import getpass
import os
import platform
import re
import shutil
import sys
import tempfile
from importlib import import_module
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec
from pathlib import Path

from commands.doctor.finding import HINT, OK, WRONG, Finding, Findings, output, refusal
from mlops.files.tables import listed, size
from mlops.run.environment import gpu

REQUIREMENTS = Path("requirements.lock")
INSTALL = f"python -m pip install -r {REQUIREMENTS}"

MIN_DISK_BYTES = 2e9
MIN_MEMORY_BYTES = 2e9
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def python() -> Finding:
    """Check that the stages, which DVC starts as `python`, run in this interpreter."""
    found = f"{platform.python_version()} in {sys.prefix}"
    theirs = output("python", "-c", "import sys; print(sys.prefix)")
    if theirs == sys.prefix:
        return Finding(OK, "python", found)
    found += f", but DVC starts the stages as python, which is {theirs or 'not on PATH'}"
    return Finding(WRONG, "python", found, f"export PATH={Path(sys.executable).parent}:$PATH")


def user() -> Findings:
    """Find a user id without a name, as in a container, for which DVC and torch stop."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        found = f"the user id {os.getuid()} has no name, which DVC and torch ask for"
        yield Finding(WRONG, "user", found, "export USER=NAME LOGNAME=NAME, whatever NAME")


def encoding() -> Findings:
    """Find names of files that Python and DVC cannot read."""
    here, known = os.fsencode(Path.cwd()), sys.getfilesystemencoding()
    try:
        here.decode()
    except UnicodeDecodeError:
        found = f"the path of this directory, {here!r}, is no UTF-8, and DVC stops at it"
        yield Finding(WRONG, "encoding", found, "rename the directory")
        return
    if known != "utf-8":
        level = HINT if here.isascii() else WRONG
        found = f"file names are read as {known}: those with other signs are not found"
        if level == WRONG:
            found += ", and DVC stops at the path of this directory"
        yield Finding(level, "encoding", found, "export LC_ALL=C.UTF-8")


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
    yield from twins(dict(pins))
    if not differing:
        yield Finding(OK, subject, f"all {len(pins)} packages as pinned")
        return
    found = f"{len(differing)} of {len(pins)} packages are not as pinned: {listed(differing)}"
    yield Finding(WRONG, subject, found, INSTALL)


def twins(pins: dict[str, str]) -> Findings:
    """Find packages that write into the directory of a pinned one, as opencv-python into cv2."""
    for name, owners in packages_distributions().items():
        ours, others = set(owners) & pins.keys(), set(owners) - pins.keys()
        # A directory without a file of its own is made to be shared.
        if ours and others and (spec := find_spec(name)) and spec.origin:
            names, pinned = " ".join(sorted(others)), " ".join(sorted(ours))
            found = f"{names} and {pinned} both install {name}: what is imported is a mixture"
            pin = " ".join(f"{one}=={pins[one]}" for one in sorted(ours))
            advice = (
                f"python -m pip uninstall --yes {names} && python -m pip install --force-reinstall "
                f"--no-deps {pin}"
            )
            yield Finding(WRONG, name, found, advice)


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


def disk_space(subject: str, path: Path, *, min_bytes: float = MIN_DISK_BYTES) -> Finding:
    """Check for room, and the right to write, where `path` is or will be."""
    # What is not there yet will be made on the disk of the nearest directory above that is.
    path = path.absolute()
    while not path.exists():
        path = path.parent
    usage = shutil.disk_usage(path)
    found = f"{size(usage.free)} of {size(usage.total)} free"
    if reason := refusal(path):
        advice = f"make {path} writable for you"
        return Finding(WRONG, subject, f"{found}; no file can be written ({reason})", advice)
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
