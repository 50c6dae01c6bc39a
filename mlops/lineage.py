"""Versions of the data: all that exist, those that a run used, and their differences.

DVC knows all of it: every dvc.lock in git's history names the data of its commit by md5, with the
parameters that made them, and DVC's cache has the tables themselves.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from mlops.errors import PipelineError
from mlops.files.places import runs_root
from mlops.recorded import git
from mlops.recorded.differences import row_differences
from mlops.recorded.dvc_cache import DvcCache, ask_dvc, cache_directory
from mlops.recorded.dvc_lock import LOCK, Identity, Lock, LockError, Version, read_versions
from mlops.recorded.dvc_yaml import DataTable, data_tables
from mlops.run.directory import find_run
from mlops.run.documents import METADATA, read_metadata

WORKSPACE = "workspace"

MIN_DIGITS = 4  # of a content hash that names a version


class DataVersionManager:
    """Versions of the data: which exist, which a run used, and what differs between two.

    For the current directory, the root of the repository, whose dvc.yaml declares the tables of the
    data. The history is that of all branches, tags and experiments; it is read once, when first
    asked for, and nothing is written. Every method raises `PipelineError` outside a git repository.
    """

    @cached_property
    def tables(self) -> dict[str, DataTable]:
        """The tables of the data by name."""
        return data_tables()

    def versions(self) -> pl.DataFrame:
        """Return a row for every version of every table of the data.

        - `data` is the name of the table, `content_hash` its md5 and `files_hash` that of the
          directory of the files that it names, as DVC has them, and `config_hash` that of the
          parameters that dvc.lock records for its stage.
        - `commit` and `date` are those of the first commit that holds it, `experiment` is DVC's
          name of that commit if it has one; null if only the workspace's dvc.lock holds it.
        - Then the counts that dvc.yaml declares for the tables, as `videos`, and in `classes` a
          struct for each class: `label`, the counts, and the bytes of the files of the class.
          `bytes` is the size of table and directory as recorded.
        - `commits` says how many commits hold it, `workspace` whether the workspace's dvc.lock
          does, and `cached` whether DVC's cache has the table and the list of the files. Without
          the table the counts and `classes` are null.

        Sorted by data, then by first commit; what only the workspace holds comes last.
        """
        if not self._first:
            raise PipelineError(
                f"{LOCK}: expected one that names data, in the workspace or in a commit, found "
                "none; run dvc repro, then commit it"
            )
        return self._frame(list(self._first))

    def used_by(self, run: str) -> pl.DataFrame:
        """Return the rows of `versions` that a run, an id or a directory, was trained on.

        A run records the md5 of the files that it reads. Of a table that it does not read, these
        are the versions from which, as dvc.lock records, all of the others were made; several if
        several gave the same ones, none if no record names them. What no dvc.lock holds any more
        has a row without commit and configuration.
        """
        used = self._recorded_inputs(find_run(runs_root(), run))
        for data in self.tables.keys() - used.keys():
            used[data] = self._sources(data, used)
        rows = []
        for data in self.tables:
            for content_hash in sorted(used[data]):
                known = [item for item in self._first if item[:2] == (data, content_hash)]
                rows += known or [(data, content_hash, None)]
        return self._frame(rows)

    def compare(self, before: str, after: str) -> pl.DataFrame:
        """Return a row for each table that both have: `data`, `before`, `after` (content hashes).

        `before` and `after` are revisions of git, names of experiments, `workspace` (what its
        dvc.lock names), or the first digits of a content hash, four at least.
        """
        old, new = self._find(before), self._find(after)
        shared = [data for data in self.tables if data in old and data in new]
        if not shared:
            raise PipelineError(
                f"{before} and {after}: expected two versions of the same data, got {_list(old)} "
                f"and {_list(new)}; python -m commands data lists the versions"
            )
        rows = [(data, old[data].content_hash, new[data].content_hash) for data in shared]
        return pl.DataFrame(rows, schema=["data", "before", "after"], orient="row")

    def diff(self, before: str, after: str) -> pl.DataFrame:
        """Return a row for each key of a table and each way in which it differs.

        `before` and `after` are what `compare` takes. Two revisions are compared by the table that
        declares parts, if both have it, or else by the first that both have; two content hashes by
        the tables they name. The first column is the table's key, as `video_path`; the others are
        `change`, `before` and `after`, the latter two as text:

        - `added`, `removed`: only one of the two has the key. The value is its part, as `test` or
          `fold 2`, or its label if the table knows no parts.
        - `renamed`: a key that is gone and a new one have the same bytes, and no other such key has
          them. The values are the keys; the other changes are told of the new one.
        - `changed`: other bytes (sha256).
        - `relabelled`: another label.
        - `moved`: another part.
        - `remade`: other bytes were made of it (their sha256).
        - `regrouped`: another group, shared with others than before, of those that both have.

        Sorted by change, in this order, then by key.
        """
        shared = self.compare(before, after)["data"].to_list()
        data = next((name for name in shared if self.tables[name].meta.part), shared[0])
        old, new = (self._facts(self._find(name)[data]) for name in (before, after))
        return row_differences(old, new).rename({"key": self.tables[data].meta.key})

    @cached_property
    def _commits(self) -> list[git.Commit]:
        return git.commits_with(LOCK)

    @cached_property
    def _locks(self) -> dict[str, Lock]:
        """The records of each dvc.lock of the history, by its blob."""
        return self._read_committed(commit.blob for commit in self._commits)

    @cached_property
    def _workspace(self) -> Lock | None:
        return read_versions(LOCK.read_bytes(), self.tables) if LOCK.exists() else None

    def _read_committed(self, blobs: Iterable[str]) -> dict[str, Lock]:
        locks = {}
        for blob, content in git.read_blobs(blobs).items():
            try:
                locks[blob] = read_versions(content, self.tables)
            except LockError:  # committed with the marks of a conflict, for one: it names nothing
                locks[blob] = {}
        return locks

    @cached_property
    def _first(self) -> dict[Identity, tuple[Version, git.Commit | None]]:
        """Every version and the first commit that holds it, in the order of `versions`."""
        found: dict[Identity, tuple[Version, git.Commit | None]] = {}
        for commit in self._commits:
            for version in self._locks[commit.blob].values():
                found.setdefault(version.identity, (version, commit))
        for version in (self._workspace or {}).values():
            found.setdefault(version.identity, (version, None))
        order = list(self.tables)
        return dict(sorted(found.items(), key=lambda item: order.index(item[0][0])))

    @cached_property
    def _num_commits(self) -> Counter[Identity]:
        locks = (self._locks[commit.blob] for commit in self._commits)
        return Counter(version.identity for lock in locks for version in lock.values())

    @cached_property
    def _experiments(self) -> dict[str, str]:
        return git.experiment_commits()

    @cached_property
    def _cache(self) -> DvcCache:
        return DvcCache(cache_directory())

    def _sources(self, data: str, used: Mapping[str, set[str]]) -> set[str]:
        """Return the versions of `data` that the used versions of other data were made from."""
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
        named = [source for source in sources if source] or [set()]
        return set.intersection(*named) or set.union(*named)

    def _find(self, name: str) -> Lock:
        """Return what a revision, an experiment, `workspace` or a content hash names."""
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
                "commands data lists the versions"
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
            self._locks.update(self._read_committed([blob]))
        return self._locks[blob]

    def _with_content(self, digits: str) -> Lock:
        """Return the version whose table's or directory's md5 begins with `digits`, if any."""
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
        return pl.DataFrame(rows, schema=self._schema)

    @cached_property
    def _schema(self) -> dict[str, pl.DataType | type[pl.DataType]]:
        names = (name for table in self.tables.values() for name in table.meta.counts)
        counts = dict.fromkeys(names, pl.Int64)
        texts = ("experiment", "content_hash", "files_hash", "config_hash")
        return {
            "data": pl.Enum(list(self.tables)),
            "commit": pl.String,
            "date": pl.Datetime("us", "UTC"),
            **dict.fromkeys(texts, pl.String),
            **counts,
            "bytes": pl.Int64,
            "classes": pl.List(pl.Struct({"label": pl.String, **counts, "bytes": pl.Int64})),
            "commits": pl.Int64,
            "workspace": pl.Boolean,
            "cached": pl.Boolean,
        }

    def _counts(self, version: Version) -> dict[str, Any]:
        """Return the counts of a version, its classes, and whether it is cached."""
        meta = self.tables[version.data].meta
        file = [meta.arrays.file] if meta.arrays else []
        columns = {meta.label, *file, *(name for names in meta.counts.values() for name in names)}
        table = self._cache.table(version.content_hash, sorted(columns))
        sizes = self._cache.sizes(version.files_hash) if version.files_hash else {}
        found: dict[str, Any] = {"cached": table is not None and sizes is not None}
        if table is None or set(table.columns) != columns:  # of a time when it had other columns
            return found
        counts = [pl.struct(names).n_unique().alias(name) for name, names in meta.counts.items()]
        files = [pl.col(name).unique().alias("files") for name in file]
        # An Enum is sorted in the order of the classes.
        classes = table.group_by(pl.col(meta.label).alias("label")).agg(*counts, *files)
        rows = classes.sort("label").to_dicts()
        for row in rows:
            row["bytes"] = _total(row.pop("files"), sizes or {}) if file else None
        return {**found, **table.select(counts).to_dicts()[0], "classes": rows}

    def _facts(self, version: Version) -> pl.DataFrame:
        """Return a row for each key, with what `row_differences` compares."""
        declared = self.tables[version.data]
        meta = declared.meta
        known_to_all = [meta.key, meta.content, meta.label, meta.group]
        made = [meta.made] if meta.made else []
        table = self._cache.table(version.content_hash, [*known_to_all, *made, *meta.part.values()])
        if table is None:
            raise PipelineError(
                f"{version}: expected {declared.path} of this version in DVC's cache, found none; "
                f"{how_to_fetch()}"
            )
        if missing := [name for name in known_to_all if name not in table.columns]:
            raise PipelineError(
                f"{version}: expected the columns {', '.join(known_to_all)}, got a table without "
                f"{', '.join(missing)}, which earlier code made; compare with another version"
            )
        facts = {
            "key": pl.col(meta.key),
            "content": pl.col(meta.content),
            "label": pl.col(meta.label).cast(pl.String),  # for the classes may be others
            # Without a group it is in one of its own.
            "group": pl.coalesce(meta.group, meta.key),
        }
        if meta.part and set(meta.part.values()) <= set(table.columns):
            parts = [pl.format(text, pl.col(column)) for text, column in meta.part.items()]
            facts["part"] = pl.coalesce(parts)
        if meta.made in table.columns:
            facts["made"] = pl.col(meta.made).str.join(" ").over(meta.key)
        return table.select(**facts).unique("key", keep="first", maintain_order=True)

    def _recorded_inputs(self, run_dir: Path) -> dict[str, set[str]]:
        """Return the md5 of the tables that a run read, by name."""
        recorded = read_metadata(run_dir).get("inputs_md5")
        if recorded is None:
            raise PipelineError(
                f"{run_dir / METADATA}: expected the md5 of the inputs, found none, for an earlier "
                "version of the code made this run; train again to have them recorded"
            )
        return {
            name: {recorded[table.path]}
            for name, table in self.tables.items()
            if table.path in recorded
        }


def _total(names: Sequence[str], sizes: Mapping[str, int]) -> int | None:
    """Return the size of the files; None if one of them is not known."""
    return sum(sizes[name] for name in names) if sizes.keys() >= set(names) else None


def how_to_fetch() -> str:
    """Return what brings back a version that the cache does not have."""
    if ask_dvc("remote", "list"):
        # For each commit DVC asks the remote that the commit's own .dvc/config names.
        return (
            "dvc fetch --all-commits brings what the remote has, for commits without a remote of "
            "their own if .dvc/config.local names it"
        )
    return "no remote is set to fetch from; git checkout a commit that holds it, and run dvc repro"


def _list(versions: Lock) -> str:
    return ", ".join(map(str, versions.values())) or "none"
