"""DVC: whether it starts at all, its cache, its remotes, and files of yours in its outs."""

import configparser
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from commands.doctor.finding import HINT, OK, WRONG, Finding, Findings, faults_of, refusal
from commands.doctor.machine import disk_space, installed_version
from mlops.errors import PipelineError
from mlops.files.tables import listed
from mlops.recorded.dvc_cache import ask_dvc
from mlops.recorded.dvc_yaml import PIPELINE
from mlops.recorded.foreign import ADVICE, foreign_files

REMOTE_TIMEOUT_SEC = 30.0
REMOTE_ADVICE = "look at the URL, the network and the credentials (docs/restoring.md)"
# DVC's own files of settings; what is in a user's home is named from elsewhere anyway.
DVC_SETTINGS = (Path(".dvc/config"), Path(".dvc/config.local"))

DVC_TMP = Path(".dvc/tmp")
RWLOCKS = (DVC_TMP / "rwlock", DVC_TMP / "exps/rwlock")


def dvc(cache: Path | None) -> Findings:
    installed = installed_version("dvc")
    here = Path(".dvc").is_dir()
    if cache is not None:
        yield Finding(OK, "DVC", f"{installed}, cache {cache}")
    elif not here:
        found = f"{installed or 'not installed'}; it names no cache for this directory"
        advice = "run from the root of the repository; dvc status tells what is wrong"
        yield Finding(WRONG, "DVC", found, advice)
    if here:
        yield from own_files()
        yield from start()


def start() -> Findings:
    """Let DVC read all that it reads at each start, as nothing else finds all that can be wrong."""
    if not PIPELINE.is_file():
        found = f"{PIPELINE}: found no such file"
        yield Finding(WRONG, "DVC", found, f"git checkout HEAD -- {PIPELINE}")
        return
    # Without hashing any data, as dvc status does.
    words = fault_of_dvc("dag", "--dot")
    if words is None:
        return
    broken = re.search(r"'\./(\S+)' (?:is invalid|validation failed)", words)
    if "possible merge conflicts" in words:
        advice = "mend the merge"
    elif "config file error" in words:
        advice = f"mend {' or '.join(map(str, DVC_SETTINGS))}, or the user's (dvc config --help)"
    elif broken:
        advice = f"mend it, or git checkout HEAD -- {broken[1]}"
    else:
        advice = "mend what else is named here; dvc status --verbose tells more"
    yield Finding(WRONG, "DVC", f"no command of it works: {words}", advice)


def fault_of_dvc(*arguments: str) -> str | None:
    """Return what a command of DVC says of its failure, in one line; None if it does not fail."""
    answer = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        env=os.environ | {"DVC_NO_ANALYTICS": "1"},
        encoding="utf-8",
        errors="replace",
        capture_output=True,
        check=False,
    )
    if answer.returncode == 0:
        return None
    errors = re.findall(r"^(?:ERROR: |dvc\S*Error: )(.*)$", answer.stderr, re.MULTILINE)
    words = " ".join((errors[-1:] or [answer.stderr])[0].split())
    return words.removeprefix("unexpected error - ") or f"exit code {answer.returncode}"


def own_files() -> Findings:
    """Check the files that DVC keeps for itself below .dvc/tmp."""
    place = DVC_TMP if DVC_TMP.exists() else DVC_TMP.parent
    locked = [path for path in DVC_TMP.glob("*") if not os.access(path, os.W_OK)]
    if reason := refusal(place) or (locked and "Permission denied"):
        found = f"{locked[0] if locked else place}: cannot be written ({reason})"
        yield Finding(WRONG, "DVC", found, f"make {DVC_TMP.parent} writable for you")
    for path in RWLOCKS:
        try:
            json.loads(path.read_bytes() or b"{}") if path.is_file() else None
        except (ValueError, OSError):
            found = f"{path}: cut off by a kill, and DVC stops at it"
            yield Finding(WRONG, "DVC", found, f"if no dvc is at work: rm {path}")


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
    if reason := refusal(path):
        found = f"{path}: no file can be written ({reason})"
        advice = "make it writable for you, or ask its owner; dvc pull works without"
        return Finding(WRONG, subject, found, advice)
    return disk_space(subject, path)


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
    try:
        paths = foreign_files()
    except PipelineError as error:  # of a dvc.yaml that cannot be read
        yield from faults_of(error)
        return
    if paths:
        found = f"expected only what the stages make, found {listed(paths)}"
        yield Finding(WRONG, "outs", f"{found}, which dvc repro removes", ADVICE)
    else:
        yield Finding(OK, "outs", "no files but those of the stages")
