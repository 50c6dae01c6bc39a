"""What one file of the repository held in the commits of git's history.

A question is one process of git, for however many commits.
"""

import re
import subprocess
from collections.abc import Iterable, Mapping
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


def blobs_of(commits: Iterable[str], path: Path) -> dict[str, str]:
    """The blob of `path` in each of the commits that hold it."""
    return _objects({name: f"{name}:./{path}" for name in commits})


def tracked(paths: Iterable[str]) -> set[str]:
    """Those of the paths that git tracks in the work tree."""
    answer = _git("ls-files", "-z", "--", *paths)
    return set(answer.decode(errors="surrogateescape").split("\0")) - {""}


def changed(paths: Iterable[str]) -> list[str]:
    """Those of the paths that differ from the last commit, or are not in it."""
    answer = _git("status", "--porcelain", "-z", "--no-renames", "--", *paths)
    # "XY PATH", each ended by a NUL.
    return [item[3:] for item in answer.decode(errors="surrogateescape").split("\0") if item]


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


def _objects(names: Mapping[str, str]) -> dict[str, str]:
    """The object of each name as git spells it, by its key; what there is not is left out."""
    asked = "".join(f"{name}\n" for name in names.values())
    answer = _git("cat-file", "--batch-check=%(objectname)", stdin=asked.encode())
    # Of what there is not it says "NAME missing".
    found = zip(names, answer.decode().splitlines(), strict=True)
    return {key: item for key, item in found if not item.endswith(" missing")}


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


def experiment_commits() -> dict[str, str]:
    """The commit of each experiment, by its name."""
    # refs/exps/<2 digits of the baseline>/<38 digits>/<name>
    return {
        name.removeprefix(EXPERIMENTS).split("/", 2)[2]: commit
        for name, commit in references(EXPERIMENTS).items()
        if re.match(r"[0-9a-f]{2}/[0-9a-f]{38}/", name.removeprefix(EXPERIMENTS))
    }
