"""History of one file of the repository: its contents in the commits of git.

A question is one process of git, for however many commits.
"""

import os
import re
import shlex
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mlops.errors import PipelineError

# Half-made states that no one has committed: a stash, and the queue of DVC's experiments.
UNFINISHED = ("refs/stash", "refs/exps/stash", "refs/exps/celery/*")

EXPERIMENTS = "refs/exps/"


@dataclass(frozen=True, kw_only=True)
class Commit:
    """A commit that has the file; equal contents are one blob."""

    hash: str
    date: datetime
    blob: str


def commits_with(path: Path) -> list[Commit]:
    """Return the commits that hold `path`, reachable from any reference, parents before children.

    Of two commits neither of which comes from the other, the older one is first. `path` counts
    from the current directory.
    """
    excluded = [f"--exclude={pattern}" for pattern in UNFINISHED]
    # A branch without a commit has no HEAD, and --all then names nothing.
    listed = _git("rev-list", "--timestamp", "--date-order", "--reverse", *excluded, "--all")
    dates = {name: int(date) for date, name in map(str.split, listed.decode().splitlines())}
    blobs = blobs_of(dates, path)
    return [
        Commit(hash=name, date=datetime.fromtimestamp(date, UTC), blob=blobs[name])
        for name, date in dates.items()
        if name in blobs
    ]


def blobs_of(commits: Iterable[str], path: Path) -> dict[str, str]:
    """Return the blob of `path` in each of the commits that hold it."""
    names = list(commits)
    asked = "".join(f"{name}:./{path}\n" for name in names)
    answer = _git("cat-file", "--batch-check=%(objectname)", stdin=asked.encode())
    # Of what there is not it says "NAME missing".
    found = zip(names, answer.decode().splitlines(), strict=True)
    return {name: blob for name, blob in found if not blob.endswith(" missing")}


def read_blobs(blobs: Iterable[str]) -> dict[str, bytes]:
    """Return the contents of the blobs, each read once."""
    names = sorted(set(blobs))
    answer = _git("cat-file", "--batch", stdin="".join(f"{name}\n" for name in names).encode())
    contents, place = {}, 0
    for name in names:
        # "NAME blob SIZE", the content, and the end of a line.
        start = answer.index(b"\n", place) + 1
        size = int(answer[place:start].split()[2])
        contents[name] = answer[start : start + size]
        place = start + size + 1
    return contents


def find_commit(revision: str) -> str | None:
    """Return the hash of the commit that git knows under `revision`; None if it knows none."""
    command = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    answer = _git(*command, may_fail=True)
    return answer.decode().split()[-1] if answer else None


def experiment_commits() -> dict[str, str]:
    """Return the commit of each experiment, by its name."""
    answer = _git("for-each-ref", "--format=%(refname) %(objectname)", EXPERIMENTS)
    # refs/exps/<2 digits of the baseline>/<38 digits>/<name>
    lines = re.findall(
        rf"^{EXPERIMENTS}[0-9a-f]{{2}}/[0-9a-f]{{38}}/(\S+) (\S+)$", answer.decode(), re.MULTILINE
    )
    return dict(lines)


def git_fault() -> str | None:
    """Return why git answers nothing about the current directory, and the cure; None if it does."""
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "--git-dir"],
            env=os.environ | {"LC_ALL": "C"},  # in the words that are looked for below
            capture_output=True,
            check=False,
        )
    except FileNotFoundError:
        return "found no program on PATH; install git"
    if answer.returncode == 0:
        return None
    said = os.fsdecode(answer.stderr).strip()
    if owned := re.search(r"dubious ownership in repository at '(.*)'", said):
        # As root in a container, or on a disk of another machine.
        return (
            f"{owned[1]} belongs to another user, and git looks into no such repository; run "
            f"git config --global --add safe.directory {shlex.quote(owned[1])}"
        )
    if "not a git repository" in said and Path(".git").exists():
        return (
            "found .git, which is no repository (any more); write 'ref: refs/heads/BRANCH' to "
            ".git/HEAD if that is damaged, or clone anew"
        )
    if "not a git repository" in said:
        return "this is no repository; run from the root of a git repository"
    return f"{said.partition(chr(10))[0]}; mend that"


def _git(*arguments: str, stdin: bytes = b"", may_fail: bool = False) -> bytes:
    try:
        answer = subprocess.run(["git", *arguments], input=stdin, capture_output=True, check=False)
    except FileNotFoundError:
        raise PipelineError("git: expected the program, found none on PATH; install git") from None
    if answer.returncode == 0:
        return answer.stdout
    said = answer.stderr.decode(errors="replace").strip().splitlines()
    if may_fail and not said:
        return b""
    raise PipelineError(
        f"git {arguments[0]}: expected an answer about the history, got "
        f"{git_fault() or repr(said[0] if said else answer.returncode)}"
    )
