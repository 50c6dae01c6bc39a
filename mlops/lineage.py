"""Which versions of the data exist, which of them a run used, and what differs between two.

DVC knows all of it: every dvc.lock in git's history names the data of its commit by md5, with the
parameters that made them, and DVC's cache has the tables themselves.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from mlops.errors import PipelineError
from mlops.files.places import runs_root
from mlops.recorded import git
from mlops.recorded.differences import row_differences
from mlops.recorded.dvc_cache import DvcCache, ask_dvc, cache_directory
from mlops.recorded.dvc_lock import (
    DIRECTORIES,
    LOCK,
    TABLES,
    Identity,
    Lock,
    LockError,
    Version,
    read_lock,
)
from mlops.run.directory import find_run
from mlops.run.documents import METADATA, read_metadata

WORKSPACE = "workspace"

# Columns of the tables: of all of them, of those with a directory, and of the splits.
VIDEO, CONTENT, LABEL, GROUP = "video_path", "sha256", "label", "group"
FILE, CLIP_CONTENT = "pack", "clip_sha256"
SPLIT, FOLD = "split", "fold"
PART = "part"  # made of the two: "test", "fold 2"

MIN_DIGITS = 4  # of a content hash that names a version

SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "data": pl.Enum(list(TABLES)),
    "commit": pl.String,
    "date": pl.Datetime("us", "UTC"),
    "experiment": pl.String,
    "content_hash": pl.String,
    "files_hash": pl.String,
    "config_hash": pl.String,
    "videos": pl.Int64,
    "clips": pl.Int64,
    "bytes": pl.Int64,
    "classes": pl.List(
        pl.Struct({"label": pl.String, "videos": pl.Int64, "clips": pl.Int64, "bytes": pl.Int64})
    ),
    "commits": pl.Int64,
    "workspace": pl.Boolean,
    "cached": pl.Boolean,
}


class DataVersionManager:
    """Answers which versions of the data exist, which a run used, and what differs between two.

    For the current directory, the root of the repository. The history is that of all branches,
    tags and experiments; it is read once, when first asked for, and nothing is written. Every
    method raises `PipelineError` outside a git repository.
    """

    def versions(self) -> pl.DataFrame:
        """A row for every version of the index, the splits, the clips and the augmentations.

        - `data` is which of the four, `content_hash` the md5 of its table and `files_hash` of its
          directory, as DVC names them, and `config_hash` that of the parameters that dvc.lock
          records for its stage.
        - `commit` and `date` are those of the first commit that holds it, `experiment` is DVC's
          name of that commit if it has one; null if only the workspace's dvc.lock holds it.
        - `videos` and `clips` count what the table names (index and splits name no clips),
          `bytes` is the size of table and directory as recorded. `classes` has a struct (label,
          videos, clips, bytes) a class, where bytes are those of the files with its clips.
        - `commits` says how many commits hold it, `workspace` whether the workspace's dvc.lock
          does, and `cached` whether DVC's cache has the table and the list of the files. Without
          the table there are no counts: `videos`, `clips` and `classes` are null.

        Sorted by data, then by first commit; what only the workspace holds comes last.
        """
        if not self._first:
            raise PipelineError(
                f"{LOCK}: expected one that names data, in the workspace or in a commit, found "
                "none; run dvc repro, then commit it"
            )
        return self._frame(list(self._first))

    def used_by(self, run: str) -> pl.DataFrame:
        """The rows of `versions` that a run was trained on, named by its id or its directory.

        A run records the md5 of the files that it reads. The index it does not read: it is the
        one from which, as dvc.lock records, its splits and its clips were made; several rows if
        several indexes gave the same ones, none if no record names them. What no dvc.lock holds
        any more has a row without commit and configuration.
        """
        used = _recorded_inputs(find_run(runs_root(), run))
        for data in TABLES.keys() - used.keys():
            used[data] = self._sources(data, used)
        rows = []
        for data in TABLES:
            for content_hash in sorted(used[data]):
                known = [item for item in self._first if item[:2] == (data, content_hash)]
                rows += known or [(data, content_hash, None)]
        return self._frame(rows)

    def compare(self, before: str, after: str) -> pl.DataFrame:
        """A row for each kind of data that both have: `data`, `before`, `after` (content hashes).

        `before` and `after` are revisions of git, names of experiments, `workspace` (what its
        dvc.lock names), or the first digits of a content hash, four at least.
        """
        old, new = self._find(before), self._find(after)
        shared = [data for data in TABLES if data in old and data in new]
        if not shared:
            raise PipelineError(
                f"{before} and {after}: expected two versions of the same data, got {_list(old)} "
                f"and {_list(new)}; python -m commands data lists the versions"
            )
        return pl.DataFrame(
            {
                "data": shared,
                "before": [old[data].content_hash for data in shared],
                "after": [new[data].content_hash for data in shared],
            }
        )

    def diff(self, before: str, after: str) -> pl.DataFrame:
        """A row for each video and each way in which it differs: what was done between the two.

        `before` and `after` are what `compare` takes. Two revisions are compared by their splits,
        and by their index where one has no splits; two content hashes by the tables they name.
        Columns: `video_path`, `change`, `before`, `after`, the latter two as text:

        - `added`, `removed`: only one of the two has the path. The value is its part of the splits
          (`test`, `fold 2`), or its label where the table knows no parts.
        - `renamed`: a path that is gone and a new one have the same bytes, and no other such path
          has them. The values are the paths; the other changes are told of the new one.
        - `changed`: the path has other bytes (sha256).
        - `relabelled`: another label.
        - `moved`: another part of the splits.
        - `remade`: other clips of the video (their sha256); only clips and augmentations have it.
        - `regrouped`: another group, which it shares with other videos than before, of those that
          both have. In the splits these are the groups after near-duplicates were joined.

        Sorted by change, in this order, then by path.
        """
        shared = self.compare(before, after)["data"].to_list()
        data = "splits" if "splits" in shared else shared[0]
        tables = [self._facts(self._find(name)[data]) for name in (before, after)]
        # A table of another time may know less.
        columns = [name for name in tables[0].columns if name in tables[1].columns]
        facts = {
            "changed": CONTENT,
            "relabelled": LABEL,
            "moved": PART,
            "remade": CLIP_CONTENT,
        }
        return row_differences(
            *(table.select(columns) for table in tables),
            key=VIDEO,
            content=CONTENT,
            shown=PART if PART in columns else LABEL,
            facts={change: column for change, column in facts.items() if column in columns},
            group=GROUP,
        )

    @cached_property
    def _commits(self) -> list[git.Commit]:
        return git.commits_with(LOCK)

    @cached_property
    def _locks(self) -> dict[str, Lock]:
        """What each dvc.lock of the history records, by its blob."""
        blobs = git.read_blobs(commit.blob for commit in self._commits)
        return {blob: _read_committed(content) for blob, content in blobs.items()}

    @cached_property
    def _workspace(self) -> Lock | None:
        return read_lock(LOCK.read_bytes()) if LOCK.exists() else None

    @cached_property
    def _first(self) -> dict[Identity, tuple[Version, git.Commit | None]]:
        """Every version and the first commit that holds it, in the order of `versions`."""
        found: dict[Identity, tuple[Version, git.Commit | None]] = {}
        for commit in self._commits:
            for version in self._locks[commit.blob].values():
                found.setdefault(version.identity, (version, commit))
        for version in (self._workspace or {}).values():
            found.setdefault(version.identity, (version, None))
        order = list(TABLES)
        return dict(sorted(found.items(), key=lambda item: order.index(item[0][0])))

    @cached_property
    def _num_commits(self) -> Counter[Identity]:
        by_blob = Counter(commit.blob for commit in self._commits)
        counts: Counter[Identity] = Counter()
        for blob, number in by_blob.items():
            counts.update({version.identity: number for version in self._locks[blob].values()})
        return counts

    @cached_property
    def _experiments(self) -> dict[str, str]:
        return git.experiment_commits()

    @cached_property
    def _cache(self) -> DvcCache:
        return DvcCache(cache_directory())

    def _sources(self, data: str, used: Mapping[str, set[str]]) -> set[str]:
        """The versions of `data` that the used versions of other data were made from."""
        locks = [*self._locks.values(), self._workspace or {}]
        sources = [
            {
                lock[child].made_from[data]
                for lock in locks
                if child in lock
                and lock[child].content_hash in content_hashes
                and data in lock[child].made_from
            }
            for child, content_hashes in used.items()
        ]
        named = [source for source in sources if source]
        if not named:
            return set()
        return set.intersection(*named) or set.union(*named)

    def _find(self, name: str) -> Lock:
        """The versions that a revision, an experiment, `workspace` or a content hash names."""
        if name == WORKSPACE:
            if self._workspace is None:
                raise PipelineError(
                    f"{LOCK}: expected what DVC records of the workspace, found no file; run dvc "
                    "repro"
                )
            return self._workspace
        commit = self._experiments.get(name) or git.find_commit(name)
        versions = self._with_content(name)
        if commit is not None and versions:
            raise PipelineError(
                f"{name}: expected the name of one thing, got one of the commit {commit[:12]} and "
                f"of {_list(versions)}; write more digits of the one you mean"
            )
        if commit is not None:
            return self._at(name, commit)
        if not versions:
            raise PipelineError(
                f"{name}: expected a revision of git, an experiment, '{WORKSPACE}', or at least "
                f"{MIN_DIGITS} digits of a content hash, got none that is known; python -m "
                "mlops data lists the versions"
            )
        return versions

    def _at(self, name: str, commit: str) -> Lock:
        blob = git.blobs_of([commit], LOCK).get(commit)
        if blob is None:
            raise PipelineError(
                f"{name}: expected a commit with {LOCK}, got one without; python -m commands data "
                "lists the commits that have data"
            )
        if blob not in self._locks:  # a commit that no reference leads to
            self._locks[blob] = _read_committed(git.read_blobs([blob])[blob])
        return self._locks[blob]

    def _with_content(self, digits: str) -> Lock:
        """The version whose table's or directory's md5 begins with `digits`; empty if none."""
        if not re.fullmatch(rf"[0-9a-f]{{{MIN_DIGITS},32}}(\.dir)?", digits):
            return {}
        found = {
            identity[:2]: version
            for identity, (version, _) in self._first.items()
            if any(md5 is not None and md5.startswith(digits) for md5 in identity[1:])
        }
        if len(found) > 1:
            names = ", ".join(f"{data} {md5}" for data, md5 in found)
            raise PipelineError(
                f"{digits}: expected the first digits of one content hash, got those of {names}; "
                "write more digits"
            )
        return {version.data: version for version in found.values()}

    def _frame(self, identities: Sequence[Identity]) -> pl.DataFrame:
        names = {commit: name for name, commit in self._experiments.items()}
        present = {version.identity for version in (self._workspace or {}).values()}
        rows = []
        for identity in identities:
            # What no dvc.lock holds any more is known by its hash alone.
            unknown = Version(data=identity[0], content_hash=identity[1])
            version, commit = self._first.get(identity, (unknown, None))
            rows.append(
                {
                    "data": version.data,
                    "commit": commit and commit.hash,
                    "date": commit and commit.date,
                    "experiment": commit and names.get(commit.hash),
                    "content_hash": version.content_hash,
                    "files_hash": version.files_hash,
                    "config_hash": version.config_hash,
                    "bytes": version.size_bytes,
                    "commits": self._num_commits[identity],
                    "workspace": identity in present,
                    **self._counts(version),
                }
            )
        return pl.DataFrame(rows, schema=SCHEMA)

    def _counts(self, version: Version) -> dict[str, Any]:
        """The columns videos, clips, classes and cached of a version."""
        has_clips = version.data in DIRECTORIES
        columns = [VIDEO, LABEL, FILE] if has_clips else [VIDEO, LABEL]
        table = self._cache.table(version.content_hash, columns)
        sizes = self._cache.sizes(version.files_hash) if version.files_hash else {}
        cached = {"cached": table is not None and sizes is not None}
        if table is None or table.columns != columns:  # of a time when it had other columns
            return cached | {"videos": None, "clips": None, "classes": None}
        classes = table.group_by(LABEL).agg(
            pl.col(VIDEO).n_unique().alias("videos"),
            (pl.len() if has_clips else pl.lit(None)).alias("clips"),
            (pl.col(FILE).unique() if has_clips else pl.lit([])).alias("files"),
        )
        return cached | {
            "videos": table[VIDEO].n_unique(),
            "clips": table.height if has_clips else None,
            "classes": [
                row | {"bytes": _total(row["files"], sizes or {}) if has_clips else None}
                for row in classes.sort(LABEL).to_dicts()  # an Enum: in the order of the classes
            ],
        }

    def _facts(self, version: Version) -> pl.DataFrame:
        """One row a video, with what `diff` compares."""
        known_to_all = [VIDEO, CONTENT, LABEL, GROUP]
        columns = [*known_to_all, CLIP_CONTENT, SPLIT, FOLD]
        table = self._cache.table(version.content_hash, columns)
        if table is None:
            raise PipelineError(
                f"{version}: expected {TABLES[version.data]} of this version in DVC's cache, found "
                f"none; {how_to_fetch()}"
            )
        if missing := [name for name in known_to_all if name not in table.columns]:
            raise PipelineError(
                f"{version}: expected the columns {', '.join(known_to_all)}, got a table without "
                f"{', '.join(missing)}, which earlier code made; compare with another version"
            )
        # As text, for the classes themselves may be others.
        table = table.with_columns(pl.col(LABEL).cast(pl.String))
        if {SPLIT, FOLD} <= set(table.columns):
            part = pl.coalesce(pl.format("fold {}", FOLD), SPLIT)
            table = table.with_columns(part.alias(PART)).drop(SPLIT, FOLD)
        if CLIP_CONTENT in table.columns:
            of_video = [name for name in table.columns if name not in (VIDEO, CLIP_CONTENT)]
            table = table.group_by(VIDEO, maintain_order=True).agg(
                pl.col(of_video).first(), pl.col(CLIP_CONTENT).str.join(" ")
            )
        # Without a group a video is one of its own.
        return table.with_columns(pl.col(GROUP).fill_null(pl.col(VIDEO)))


def _total(names: Sequence[str], sizes: Mapping[str, int]) -> int | None:
    """The size of the files; None if one of them is not known."""
    return sum(sizes[name] for name in names) if sizes.keys() >= set(names) else None


def how_to_fetch() -> str:
    """What brings back a version that the cache does not have."""
    if ask_dvc("remote", "list"):
        # For each commit DVC asks the remote that the commit's own .dvc/config names.
        return (
            "dvc fetch --all-commits brings what the remote has, for commits without a remote of "
            "their own if .dvc/config.local names it"
        )
    return "no remote is set to fetch from; git checkout a commit that holds it, and run dvc repro"


def _read_committed(content: bytes) -> Lock:
    try:
        return read_lock(content)
    except LockError:  # committed with the marks of a conflict, for one: it names nothing
        return {}


def _recorded_inputs(run_dir: Path) -> dict[str, set[str]]:
    """The md5 of the tables that a run read, by key of TABLES."""
    path = run_dir / METADATA
    recorded = read_metadata(run_dir).get("inputs_md5")
    if recorded is None:
        raise PipelineError(
            f"{path}: expected the md5 of the inputs, found none, for an earlier version of the "
            "code made this run; train again to have them recorded"
        )
    return {data: {recorded[table]} for data, table in TABLES.items() if table in recorded}


def _list(versions: Lock) -> str:
    return ", ".join(map(str, versions.values())) or "none"
