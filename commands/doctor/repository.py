"""The repository: git, what merges and killed trials leave in it, and params.yaml."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

from commands.doctor.clips import clips_of_weights
from commands.doctor.finding import HINT, OK, WRONG, Finding, Findings, ask, faults_of, output
from mlops.errors import PipelineError
from mlops.files.tables import listed
from mlops.recorded.dvc_lock import LOCK
from mlops.recorded.dvc_yaml import PIPELINE
from mlops.recorded.git import git_fault
from stages.params import Data, read_params
from stages.paths import METRICS, SAMPLE

PARAMS = "params.yaml"
TAKE_BACK = f"git checkout HEAD -- {PARAMS} dvc.lock metrics.json && dvc checkout"
QUEUED_TRIAL = "refs/exps/stash"

# The pipeline makes them again, so that it does not matter which side of a conflict is taken.
RESULTS = (LOCK, METRICS)
# That DVC reads at every start, besides all .dvc files.
READ = (PARAMS, PIPELINE, LOCK, METRICS, ".dvc/config", ".dvc/config.local", ".dvcignore")
CONFLICT = re.compile(rb"^(<<<<<<< |>>>>>>> )", re.MULTILINE)

# A git that is at work holds its locks for less.
LOCK_AGE_SEC = 10.0


def git() -> Findings:
    found = output("git", "--version") or ""
    if fault := git_fault():
        yield Finding(WRONG, "git", *fault.split("; ", 1))
        return
    yield Finding(OK, "git", found)
    status, said = ask("git", "--no-optional-locks", "status", "--porcelain", "-uno")
    if status is None:
        advice = "rm .git/index && git reset, which touches no file of yours"
        yield Finding(WRONG, "git status", said, advice if "index" in said else "mend that")
    if locks := list(left_locks()):
        found = f"left by a git that was killed, stops the next: {listed(locks)}"
        yield Finding(WRONG, "git locks", found, f"if no git is at work: rm {' '.join(locks)}")
    if output("git", "var", "GIT_COMMITTER_IDENT") is None:
        found = "knows no name and address of yours: git commit fails (dvc does not)"
        advice = "git config --global user.name NAME && git config --global user.email ADDRESS"
        yield Finding(HINT, "git", found, advice)
    if output("git", "rev-parse", "--is-shallow-repository") == "true":
        found = "a shallow clone: dvc gc --all-commits and runs gc see none of the earlier commits"
        yield Finding(HINT, "git", found, "git fetch --unshallow")


def left_locks() -> Iterator[str]:
    """Yield the lock files of git that have lain for longer than git works."""
    place = Path(output("git", "rev-parse", "--git-dir") or ".git")
    for lock in sorted([*place.glob("*.lock"), *place.glob("refs/**/*.lock")]):
        if time.time() - lock.stat().st_mtime > LOCK_AGE_SEC:
            yield str(lock)


def conflicts() -> Findings:
    """Find the marks that git leaves in files that both sides of a merge have changed."""
    tracked = (output("git", "ls-files", "-z", "--", "*.dvc") or "").split("\0")
    named = [Path(name) for name in dict.fromkeys((*map(str, READ), *tracked)) if name]
    marked = [path for path in named if path.is_file() and CONFLICT.search(path.read_bytes())]
    if results := " ".join(str(path) for path in RESULTS if Path(path) in marked):
        found = f"marks of a merge conflict in {results}"
        advice = (
            f"git checkout --theirs {results} && dvc repro && git add {results}, then commit or "
            "git rebase --continue (docs/restoring.md#after-a-merge)"
        )
        yield Finding(WRONG, "merge", found, advice)
    for path in marked:
        if path not in map(Path, RESULTS):
            found = f"marks of a merge conflict in {path}"
            advice = "keep one side of each, and remove the lines <<<<<<<, ======= and >>>>>>>"
            yield Finding(WRONG, "merge", found, advice)
    if not marked and output("git", "ls-files", "--unmerged"):
        found = "a merge is not finished: dvc exp run and git commit fail"
        advice = "git add the files that git status names, then commit or git rebase --continue"
        yield Finding(HINT, "merge", found, advice)


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


def params() -> Findings:
    """Check params.yaml as the stages do, and that the data it names are there.

    DVC reads it first, and of much that is wrong in it says no word that helps.
    """
    try:
        values = read_params()
    except PipelineError as error:
        yield from faults_of(error)
        return
    yield Finding(OK, PARAMS, "values as the stages expect them")
    yield from clips_of_weights(values)
    yield from own_videos(values.data)


def own_videos(data: Data) -> Findings:
    root, index = Path(data.root), Path(data.index)
    if root.is_relative_to(SAMPLE):
        return  # which the first stage makes
    tracked = [path for path in (root, *root.parents) if Path(f"{path}.dvc").is_file()]
    advice = f"dvc pull {tracked[0]}.dvc" if tracked else "put them there, or write where they are"
    if not root.is_dir():
        yield Finding(WRONG, PARAMS, f"data.root: {root}: no such directory", advice)
    elif not index.is_file():
        yield Finding(WRONG, PARAMS, f"data.index: {index}: no such file", advice)
