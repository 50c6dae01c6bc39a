"""What one file of the repository held in the commits of git's history.

A question is one process of git, for however many commits.
"""

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from mlops.errors import PipelineError

# Half-made states that no one has committed: a stash, and the queue of DVC's experiments.
UNFINISHED = ("refs/stash", "refs/exps/stash", "refs/exps/celery/*")


@dataclass(frozen=True, kw_only=True)
class Commit:
    """A commit that has the file; equal contents are one blob."""

    hash: str
    date: datetime
    blob: str


def commits_with(path: str) -> list[Commit]:
    """The commits that hold `path`, reachable from any reference, parents before children.

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


def blobs_of(commits: Iterable[str], path: str) -> dict[str, str]:
    """The blob of `path` in each of the commits that hold it."""
    names = list(commits)
    asked = "".join(f"{name}:./{path}\n" for name in names)
    answer = _git("cat-file", "--batch-check=%(objectname)", stdin=asked.encode())
    # Of a file that a commit lacks it says "NAME missing".
    found = zip(names, answer.decode().splitlines(), strict=True)
    return {name: blob for name, blob in found if not blob.endswith(" missing")}


def read_blobs(blobs: Iterable[str]) -> dict[str, bytes]:
    """The contents of the blobs, each read once."""
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
    """The hash of the commit that git knows under `revision`; None if it knows none."""
    command = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    answer = _git(*command, may_fail=True)
    return answer.decode().split()[-1] if answer else None


def references(below: str) -> dict[str, str]:
    """The hash that each reference whose full name starts with `below` points to."""
    answer = _git("for-each-ref", "--format=%(refname) %(objectname)", below)
    return {line.split()[0]: line.split()[1] for line in answer.decode().splitlines()}


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
        f"'{said[0] if said else answer.returncode}'; run from the root of a git repository"
    )
