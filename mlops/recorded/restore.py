"""Restoring a run's results: where git and DVC still have them, and the commands for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mlops.files import atomic
from mlops.recorded import git
from mlops.recorded.dvc_cache import DvcCache, cache_directory
from mlops.recorded.dvc_lock import LOCK, LockError, recorded_md5s, workspace_md5s


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A commit whose dvc.lock names all files that a run has published."""

    commit: git.Commit
    experiment: str | None  # DVC's name of the commit, if it is that of an experiment


class Recorded:
    """The records of DVC, for the current directory, the root of the repository.

    The history is read once, when first asked for: of all branches, tags and experiments.
    """

    def holder(self, published: Mapping[str, str]) -> Holder | None:
        """Return the first commit of a branch or tag that names all of `published`, md5 by path.

        An experiment's commit counts if there is no other: it goes with its experiment.
        """
        found = [
            Holder(commit=commit, experiment=self._experiments.get(commit.hash))
            for commit in self._commits
            if published and self._names(self._locks[commit.blob], published)
        ]
        return min(found, key=lambda holder: holder.experiment is not None, default=None)

    def in_workspace(self, published: Mapping[str, str]) -> bool:
        """Return whether the workspace's dvc.lock names all of them."""
        return bool(published) and published.items() <= self._workspace.items()

    def is_cached(self, published: Mapping[str, str]) -> bool:
        """Return whether DVC's cache has all of them, with the right bytes."""
        return bool(published) and all(map(self._cache.find_whole, published.values()))

    def _names(self, lock: bytes, published: Mapping[str, str]) -> bool:
        # Looking at the text first: parsing takes milliseconds, and of 1,000 locks few name it.
        if not all(md5.encode() in lock for md5 in published.values()):
            return False
        try:
            return published.items() <= recorded_md5s(lock).items()
        except LockError:  # committed with the marks of a conflict, for one
            return False

    @cached_property
    def _commits(self) -> list[git.Commit]:
        return git.commits_with(LOCK)

    @cached_property
    def _locks(self) -> dict[str, bytes]:
        return git.read_blobs(commit.blob for commit in self._commits)

    @cached_property
    def _experiments(self) -> dict[str, str]:
        """The name of each experiment by its commit."""
        return {commit: name for name, commit in git.experiment_commits().items()}

    @cached_property
    def _workspace(self) -> dict[str, str]:
        return workspace_md5s()

    @cached_property
    def _cache(self) -> DvcCache:
        return DvcCache(cache_directory())


def size_bytes(directory: Path) -> int:
    """Return the size of all files below; one with two names, as a checkpoint, counts once."""
    stats = [path.stat() for path in directory.rglob("*") if atomic.is_regular(path)]
    return sum({(stat.st_dev, stat.st_ino): stat.st_size for stat in stats}.values())
