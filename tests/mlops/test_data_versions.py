"""The versions of the data: listed from git's history and DVC's cache, used by runs, compared.

One repository with real runs of the pipeline serves all tests here:

    first    the sample
    second   a larger test set, with a fixed split.rebalance
    third    own videos: one added, one removed, one with other bytes, one relabelled, one renamed
             and one in another group
    copies   an experiment on the third, with two augmented copies
"""

import csv
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from mlops.errors import PipelineError
from mlops.files.atomic import md5
from mlops.files.canonical import config_hash
from mlops.files.yaml_text import load_yaml
from mlops.lineage import DataVersionManager
from mlops.recorded.dvc_yaml import data_tables
from tests.support.clone import ROOT, commit, completed, dvc, environment, git, set_params
from video.synthesis.encoding import encode_video

LAST = "generate_augmentations"

DECLARED = data_tables(ROOT)
TABLES = {name: table.path for name, table in DECLARED.items()}
DIRECTORIES = {name: table.directory for name, table in DECLARED.items() if table.directory}


@dataclass
class Project:
    """The repository, and what lay in data/ at each of its commits."""

    root: Path
    commits: dict[str, str] = field(default_factory=dict)
    tables: dict[str, dict[str, pl.DataFrame]] = field(default_factory=dict)
    md5s: dict[str, dict[str, str]] = field(default_factory=dict)
    params: dict[str, dict[str, Any]] = field(default_factory=dict)
    edited: dict[str, str] = field(default_factory=dict)  # what was done to the third, to which

    def note(self, name: str) -> None:
        paths = {data: self.root / path for data, path in TABLES.items()}
        self.commits[name] = git("rev-parse", "HEAD", cwd=self.root).strip()
        self.tables[name] = {data: pl.read_parquet(path) for data, path in paths.items()}
        self.md5s[name] = {data: md5(path) for data, path in paths.items()}
        self.params[name] = load_yaml(self.root / "params.yaml")


@pytest.fixture(scope="module")
def project(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    root = shutil.copytree(finished, tmp_path_factory.mktemp("versions") / "clone", symlinks=True)
    project = Project(root)
    project.note("first")

    # No search for near-duplicates, which would put a video back into the group it was taken from.
    set_params(root, {"split": {"test_share": 0.4, "near_duplicate_distance": 0.0}})
    output = dvc("repro", LAST, cwd=root)
    best = re.search(r"rebalance (\d+) would bring", output)
    assert best, output
    set_params(root, {"split": {"rebalance": int(best[1])}})
    dvc("repro", LAST, cwd=root)
    commit(root, "second")
    project.note("second")

    project.edited = make_own_videos(root)
    dvc("add", "data/mine", cwd=root)
    set_params(root, {"data": {"index": "data/mine/index.csv", "root": "data/mine"}})
    dvc("repro", LAST, cwd=root)
    commit(root, "third")
    project.note("third")

    dvc("exp", "run", "--temp", "--name", "copies", "-S", "augment.copies=2", LAST, cwd=root)
    return project


def make_own_videos(root: Path) -> dict[str, str]:
    """Copy the sample's videos with one change of each kind; return the change of each video."""
    mine = shutil.copytree(root / "data/generated_sample", root / "data/mine")
    splits = pl.read_parquet(root / "data/splits.parquet")
    unique = splits.filter(~pl.col("sha256").is_duplicated())
    # Of different groups of several videos, so that each edit touches a group of its own.
    large = unique.filter(pl.len().over("group") > 1).unique("group", maintain_order=True)
    removed, changed, relabelled, renamed, regrouped = large["video_path"].sort().head(5)
    with (mine / "index.csv").open(newline="") as stream:
        rows = {row["video_path"]: row for row in csv.DictReader(stream)}
    del rows[removed]
    write_noise(mine / changed, seed=1)
    labels = {"authentic": "tampered", "tampered": "authentic"}
    rows[relabelled]["label"] = labels[rows[relabelled]["label"]]
    new_name = f"renamed{Path(renamed).suffix}"
    (mine / renamed).rename(mine / new_name)
    rows[new_name] = rows.pop(renamed) | {"video_path": new_name}
    rows[regrouped]["dup_group"] = "alone"
    write_noise(mine / "added.mp4", seed=2)
    rows["added.mp4"] = rows[changed] | {"video_path": "added.mp4", "dup_group": "new"}
    with (mine / "index.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, next(iter(rows.values())))
        writer.writeheader()
        writer.writerows(rows.values())
    return {
        "added": "added.mp4",
        "removed": removed,
        "changed": changed,
        "relabelled": relabelled,
        "renamed": new_name,
        "renamed from": renamed,
        "regrouped": regrouped,
    }


def write_noise(path: Path, *, seed: int) -> None:
    path.unlink(missing_ok=True)
    noise = np.random.default_rng(seed)
    frames = [noise.integers(0, 256, (48, 64, 3), np.uint8) for _ in range(24)]
    codec = {".avi": "mjpeg", ".webm": "vp9"}.get(path.suffix, "h264")
    encode_video(path, frames, codec=codec, fps=12, quality=50)


@pytest.fixture
def manager(project: Project, monkeypatch: pytest.MonkeyPatch) -> DataVersionManager:
    monkeypatch.chdir(project.root)
    return DataVersionManager()


@pytest.fixture
def own(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the repository that a test may change, as the current directory."""
    root = shutil.copytree(project.root, tmp_path / "own", symlinks=True)
    monkeypatch.chdir(root)
    return root


def rows(table: pl.DataFrame, data: str) -> list[dict[str, Any]]:
    return list(table.filter(pl.col("data") == data).iter_rows(named=True))


def first_commits(project: Project, table: pl.DataFrame, data: str) -> dict[str, str | None]:
    """Return the name of the first commit of each version, by its content hash."""
    names = {commit: name for name, commit in project.commits.items()}
    return {
        row["content_hash"]: row["experiment"] or names.get(row["commit"])
        for row in rows(table, data)
    }


# What exists


def test_a_version_is_new_where_its_content_is_new(
    project: Project, manager: DataVersionManager
) -> None:
    table, md5s = manager.versions(), project.md5s
    assert first_commits(project, table, "index") == {
        md5s["first"]["index"]: "first",
        md5s["third"]["index"]: "third",
    }
    assert first_commits(project, table, "splits") == {
        md5s["first"]["splits"]: "first",
        md5s["second"]["splits"]: "second",
        md5s["third"]["splits"]: "third",
    }
    assert first_commits(project, table, "clips") == {
        md5s["first"]["clips"]: "first",
        md5s["third"]["clips"]: "third",
    }
    augmentations = first_commits(project, table, "augmentations")
    assert list(augmentations.values()) == ["first", "second", "third", "copies"]
    assert list(augmentations)[:3] == [md5s[name]["augmentations"] for name in project.commits]


def test_a_version_tells_the_commits_that_hold_it(
    project: Project, manager: DataVersionManager
) -> None:
    table = manager.versions()
    # First and second share an index; the third and the experiment have another.
    assert [row["commits"] for row in rows(table, "index")] == [2, 2]
    assert [row["commits"] for row in rows(table, "augmentations")] == [1, 1, 1, 1]
    assert [row["workspace"] for row in rows(table, "augmentations")] == [False, False, True, False]
    first = rows(table, "index")[0]
    date = git("show", "--no-patch", "--format=%cI", first["commit"], cwd=project.root)
    assert first["date"] == datetime.fromisoformat(date.strip())
    assert set(table["cached"]) == {True}


def test_a_commit_that_changes_other_files_holds_the_same_data(own: Path) -> None:
    before = DataVersionManager().versions()
    Path("README.md").write_text("other words")
    commit(own, "words")
    after = DataVersionManager().versions()
    added = pl.col("commits") + pl.col("workspace").cast(pl.Int64)
    assert after.equals(before.with_columns(commits=added))


def test_the_config_hash_is_that_of_the_parameters_that_made_it(
    project: Project, manager: DataVersionManager
) -> None:
    table = manager.versions()
    for place, name in enumerate(project.commits):
        params = project.params[name]
        index = {"data.index": params["data"]["index"]}
        recorded = {"params.yaml": index | {"split": params["split"]}}
        assert rows(table, "splits")[place]["config_hash"] == config_hash(recorded)


@pytest.mark.parametrize("name", ["first", "second", "third"])
@pytest.mark.parametrize("data", list(TABLES))
def test_the_numbers_are_those_of_the_table_and_of_its_files(
    name: str, data: str, project: Project, manager: DataVersionManager
) -> None:
    table, content_hash = project.tables[name][data], project.md5s[name][data]
    (row,) = [row for row in rows(manager.versions(), data) if row["content_hash"] == content_hash]
    assert row["videos"] == len(set(table["video_path"]))
    clips = table.height if data in DIRECTORIES else None
    assert row["clips"] == clips
    labels = list(table["label"])
    assert [item["label"] for item in row["classes"]] == sorted(
        set(labels), key=project.params[name]["data"]["labels"].index
    )
    for item in row["classes"]:
        of_class = [path for path, label in table.select("video_path", "label").iter_rows()
                    if label == item["label"]]  # fmt: skip
        assert item["videos"] == len(set(of_class))
        assert item["clips"] == (None if clips is None else labels.count(item["label"]))


def test_a_video_with_two_clips_is_one_video(project: Project, manager: DataVersionManager) -> None:
    videos = dict(
        project.tables["third"]["augmentations"].select("video_path", "label").iter_rows()
    )
    (row,) = [row for row in rows(manager.versions(), "augmentations") if row["experiment"]]
    assert (row["videos"], row["clips"]) == (len(videos), 2 * len(videos))
    for item in row["classes"]:
        of_class = list(videos.values()).count(item["label"])
        assert (item["videos"], item["clips"]) == (of_class, 2 * of_class)


@pytest.mark.parametrize("data", list(TABLES))
def test_the_bytes_are_those_on_disk(
    data: str, project: Project, manager: DataVersionManager
) -> None:
    (row,) = [row for row in rows(manager.versions(), data) if row["workspace"]]
    path = project.root / TABLES[data]
    sizes = {}
    if data in DIRECTORIES:
        directory = project.root / DIRECTORIES[data]
        sizes = {file.name: file.stat().st_size for file in directory.iterdir()}
    assert row["bytes"] == path.stat().st_size + sum(sizes.values())
    table = project.tables["third"][data]
    for item in row["classes"]:
        packs = set(table.filter(pl.col("label") == item["label"])["pack"]) if sizes else set()
        assert item["bytes"] == (sum(sizes[name] for name in packs) if sizes else None)


def test_what_only_the_workspace_has_is_a_version_without_a_commit(own: Path) -> None:
    set_params(own, {"split": {"test_share": 0.3}})
    dvc("repro", "create_splits", cwd=own)
    last = rows(DataVersionManager().versions(), "splits")[-1]
    assert last["content_hash"] == md5(own / TABLES["splits"])
    assert (last["commit"], last["date"], last["commits"]) == (None, None, 0)
    assert last["workspace"]
    assert last["videos"] == pl.read_parquet(own / TABLES["splits"]).height


def test_a_version_of_a_branch_and_of_a_merged_one_is_found(own: Path, project: Project) -> None:
    git("checkout", "--quiet", "-b", "side", project.commits["first"], cwd=own)
    text = Path("dvc.lock").read_text()
    Path("dvc.lock").write_text(text.replace(project.md5s["first"]["index"], "f" * 32))
    commit(own, "side")
    git("checkout", "--quiet", "main", cwd=own)
    found = {row["content_hash"] for row in rows(DataVersionManager().versions(), "index")}
    assert "f" * 32 in found
    # A merge that takes nothing of the other side: `git log -- dvc.lock` would not show it.
    git("merge", "--quiet", "--strategy", "ours", "--message", "merge", "side", cwd=own)
    git("branch", "--quiet", "--delete", "side", cwd=own)
    merged = {row["content_hash"] for row in rows(DataVersionManager().versions(), "index")}
    assert merged == found


def test_a_stash_is_no_part_of_the_history(own: Path, project: Project) -> None:
    text = Path("dvc.lock").read_text()
    Path("dvc.lock").write_text(text.replace(project.md5s["third"]["index"], "f" * 32))
    git("stash", cwd=own)
    found = {row["content_hash"] for row in rows(DataVersionManager().versions(), "index")}
    assert "f" * 32 not in found


def test_a_lock_committed_with_the_marks_of_a_conflict_names_nothing(own: Path) -> None:
    before = DataVersionManager().versions().drop("commits", "workspace")
    lines = Path("dvc.lock").read_text().splitlines(keepends=True)
    # In every stage, so that none can be read.
    marked = [("<<<<<<< HEAD\n" + line if "outs:" in line else line) for line in lines]
    Path("dvc.lock").write_text("".join(marked))
    commit(own, "conflict")
    git("checkout", "--quiet", "HEAD~1", cwd=own)
    assert DataVersionManager().versions().drop("commits", "workspace").equals(before)


# What the cache has lost


def lose(root: Path, name: str) -> None:
    (root / ".dvc/cache/files/md5" / name[:2] / name[2:]).unlink()


def cut_off(root: Path, name: str) -> None:
    path = root / ".dvc/cache/files/md5" / name[:2] / name[2:]
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize("spoil", [lose, cut_off])
def test_a_table_that_is_gone_leaves_what_dvc_lock_says(
    spoil: Any, own: Path, project: Project
) -> None:
    whole = rows(DataVersionManager().versions(), "clips")[0]
    spoil(own, project.md5s["first"]["clips"])
    left = rows(DataVersionManager().versions(), "clips")[0]
    unknown = {"videos": None, "clips": None, "classes": None, "cached": False}
    assert left == whole | unknown
    assert whole["cached"]


def test_files_that_are_gone_leave_the_counts(own: Path) -> None:
    whole = rows(DataVersionManager().versions(), "clips")[0]
    lose(own, whole["files_hash"])
    left = rows(DataVersionManager().versions(), "clips")[0]
    classes = [item | {"bytes": None} for item in whole["classes"]]
    assert left == whole | {"classes": classes, "cached": False}


def test_a_directory_of_no_files_is_not_missed(own: Path) -> None:
    set_params(own, {"augment": {"copies": 0}})
    dvc("repro", LAST, cwd=own)
    last = rows(DataVersionManager().versions(), "augmentations")[-1]
    assert (last["videos"], last["clips"], last["classes"], last["cached"]) == (0, 0, [], True)


def test_what_is_gone_is_said_with_what_brings_it_back(own: Path, project: Project) -> None:
    lose(own, project.md5s["first"]["splits"])
    output = command("data")
    assert "1 version not in the cache of DVC" in output
    assert "no remote is set to fetch from; git checkout a commit that holds it" in output
    says = fails("data", "diff", project.commits["first"], "workspace")
    assert f"data: splits {project.md5s['first']['splits'][:8]}: expected" in says
    assert "no remote is set" in says

    dvc("remote", "add", "--default", "store", str(own.parent / "store"), cwd=own)
    assert "dvc fetch --all-commits brings what the remote has" in command("data")


def test_what_a_remote_brings_back_is_counted_again(own: Path) -> None:
    before = DataVersionManager().versions()
    # Not in .dvc/config: for each commit DVC asks the remote that its .dvc/config names.
    dvc("remote", "add", "--local", "--default", "store", str(own.parent / "store"), cwd=own)
    dvc("push", "--all-commits", cwd=own)
    shutil.rmtree(own / ".dvc/cache/files")
    assert not any(DataVersionManager().versions()["cached"])
    dvc("fetch", "--all-commits", cwd=own)
    after = DataVersionManager().versions()
    # Those of experiments come with `dvc exp pull`.
    of_commits = pl.col("experiment").is_null()
    assert after.filter(of_commits).equals(before.filter(of_commits))


# What a run used


def run_of(root: Path) -> Path:
    (run,) = (root / "runs/sample").iterdir()
    return run


@pytest.mark.parametrize("named", ["id", "directory", "below runs", "absolute"])
def test_a_run_used_the_versions_that_it_was_trained_on(
    named: str, project: Project, manager: DataVersionManager
) -> None:
    run = run_of(project.root)
    names = {
        "id": run.name,
        "directory": f"runs/sample/{run.name}",
        "below runs": f"sample/{run.name}",
        "absolute": str(run),
    }
    used = manager.used_by(names[named])
    assert dict(used.select("data", "content_hash").iter_rows()) == project.md5s["first"]
    first = manager.versions().filter(pl.col("content_hash").is_in(used["content_hash"].to_list()))
    assert used.equals(first)


def test_a_run_on_data_that_no_commit_holds_is_told_by_its_content(own: Path) -> None:
    set_params(own, {"augment": {"copies": 3}, "train": {"epochs": 1}})
    dvc("repro", "train", cwd=own)
    (run,) = {path.name for path in (own / "runs/sample").iterdir()} - {run_of_first(own)}
    made = md5(own / TABLES["augmentations"])
    (row,) = rows(DataVersionManager().used_by(run), "augmentations")
    assert (row["content_hash"], row["commit"], row["workspace"]) == (made, None, True)

    git("checkout", "--quiet", "dvc.lock", cwd=own)
    (row,) = rows(DataVersionManager().used_by(run), "augmentations")
    clips = pl.read_parquet(own / TABLES["augmentations"]).height
    assert (row["content_hash"], row["clips"], row["commits"]) == (made, clips, 0)
    assert row["config_hash"] is None
    assert "no commit" in command("data", "used", run)


def run_of_first(root: Path) -> str:
    return min(path.name for path in (root / "runs/sample").iterdir())


def test_a_run_whose_splits_no_record_names_has_no_index(own: Path) -> None:
    run = run_of(own)
    Path("dvc.lock").unlink()
    shutil.rmtree(".git")
    git("init", "--quiet", cwd=own)
    used = DataVersionManager().used_by(run.name)
    assert used["data"].to_list() == ["splits", "clips", "augmentations"]
    assert "not known: no dvc.lock of the history names it" in command("data", "used", run.name)


@pytest.mark.parametrize("stages", ["all", "create_splits"])
def test_the_index_is_the_one_that_made_both_the_splits_and_the_clips(
    stages: str, own: Path, project: Project
) -> None:
    """Several indexes can give the same splits, as when a column is new that they do not use."""
    git("checkout", "--quiet", project.commits["first"], "--", "dvc.lock", cwd=own)
    known, other = project.md5s["first"]["index"], "f" * 32
    blocks = re.split(r"^(?=  \S)", Path("dvc.lock").read_text(), flags=re.MULTILINE)
    changed = [
        block.replace(known, other)
        if block.strip().startswith(stages) or stages == "all"
        else block
        for block in blocks
    ]
    Path("dvc.lock").write_text("".join(changed))
    used = rows(DataVersionManager().used_by(run_of(own).name), "index")
    found = {row["content_hash"] for row in used}
    assert found == ({known, other} if stages == "all" else {known})


def test_a_run_without_a_record_of_its_inputs_is_told(own: Path) -> None:
    path = run_of(own) / "metadata.json"
    metadata = json.loads(path.read_text())
    del metadata["inputs_md5"]
    path.write_text(json.dumps(metadata))
    assert "metadata.json: expected the md5 of the inputs" in fails(
        "data", "used", path.parent.name
    )


def test_two_runs_of_one_name_are_told_apart_by_their_directory(own: Path) -> None:
    run = run_of(own)
    shutil.copytree(run, own / "runs/other" / run.name)
    says = fails("data", "used", run.name)
    assert f"expected one run, got runs/other/{run.name}, runs/sample/{run.name}" in says
    assert DataVersionManager().used_by(f"other/{run.name}").height == len(TABLES)


# What differs


def expected_changes(
    before: pl.DataFrame, after: pl.DataFrame, edited: dict[str, str]
) -> Iterator[tuple[str, str, str | None, str | None]]:
    """Yield the rows of `diff` by a plain loop over two versions of the splits."""
    old = {row["video_path"]: row for row in before.iter_rows(named=True)}
    new = {row["video_path"]: row for row in after.iter_rows(named=True)}
    old[edited["renamed"]] = old.pop(edited["renamed from"])
    yield (edited["renamed"], "renamed", edited["renamed from"], edited["renamed"])
    for path in old.keys() | new.keys():
        if path not in old:
            yield (path, "added", None, part(new[path]))
        elif path not in new:
            yield (path, "removed", part(old[path]), None)
        else:
            for change, fact in (("changed", "sha256"), ("relabelled", "label")):
                if old[path][fact] != new[path][fact]:
                    yield (path, change, old[path][fact], new[path][fact])
            if part(old[path]) != part(new[path]):
                yield (path, "moved", part(old[path]), part(new[path]))


def part(row: dict[str, Any]) -> str:
    return "test" if row["fold"] is None else f"fold {row['fold']}"


def test_all_that_was_done_to_the_videos_is_told(
    project: Project, manager: DataVersionManager
) -> None:
    before, after = (project.tables[name]["splits"] for name in ("second", "third"))
    table = manager.diff(project.commits["second"], "main")
    told = [row for row in table.iter_rows() if row[1] != "regrouped"]
    assert Counter(told) == Counter(expected_changes(before, after, project.edited))
    edited = {(change, path) for change, path in project.edited.items() if " " not in change}
    assert edited <= {(change, path) for path, change, _, _ in table.iter_rows()}
    groups = dict(after.select("video_path", "group").iter_rows())
    regrouped = table.filter(pl.col("change") == "regrouped")
    for path, _, was, now in regrouped.iter_rows():
        assert now == groups[path]
        assert was != now


def test_a_larger_test_set_moves_videos_and_does_nothing_else(
    project: Project, manager: DataVersionManager
) -> None:
    before, after = (project.tables[name]["splits"] for name in ("first", "second"))
    joined = before.join(after, on="video_path")
    moved = joined.filter(pl.col("fold").ne_missing(pl.col("fold_right")))
    table = manager.diff("main~1~1", "main~1")
    assert set(table["change"]) == {"moved"}
    assert sorted(table["video_path"]) == sorted(moved["video_path"])
    values = {value for row in table.iter_rows() for value in row[2:]}
    assert "test" in values
    assert values <= {"test", "fold 0", "fold 1"}


@pytest.mark.parametrize("data", list(TABLES))
def test_a_content_hash_names_the_table_to_compare(
    data: str, project: Project, manager: DataVersionManager
) -> None:
    one, other = (project.md5s[name][data] for name in ("first", "third"))
    table = manager.diff(one[:10], other)
    assert manager.compare(one[:10], other).rows() == [(data, one, other)]
    # And so does a content hash beside a revision.
    assert table.equals(manager.diff(project.commits["first"], other[:10]))
    before, after = (project.tables[name][data] for name in ("first", "third"))
    gone, new = (set(table.filter(change=name)["video_path"]) for name in ("removed", "added"))
    renamed = {project.edited["renamed"], project.edited["renamed from"]}
    # Augmentations have it only if it trains, before and after.
    if not renamed <= set(before["video_path"]) | set(after["video_path"]):
        renamed = set()
    assert gone == set(before["video_path"]) - set(after["video_path"]) - renamed
    assert new == set(after["video_path"]) - set(before["video_path"]) - renamed


def test_other_copies_of_the_same_videos_are_remade(
    project: Project, manager: DataVersionManager
) -> None:
    hashes = dict(manager.compare("main", "copies").select("data", "after").iter_rows())
    table = manager.diff(project.md5s["third"]["augmentations"], hashes["augmentations"])
    videos = set(project.tables["third"]["augmentations"]["video_path"])
    assert set(table.select("video_path", "change").iter_rows()) == {(v, "remade") for v in videos}
    _, _, before, after = table.row(0)
    assert before is not None
    assert after is not None
    assert after.split()[: len(before.split())] == before.split()
    assert len(after.split()) == 2


def test_a_version_differs_from_itself_in_nothing(manager: DataVersionManager) -> None:
    assert manager.diff("main", "workspace").is_empty()
    assert manager.diff("HEAD", "main").columns == ["video_path", "change", "before", "after"]


def test_an_experiment_goes_by_its_name(project: Project, manager: DataVersionManager) -> None:
    found = dict(manager.compare("main", "copies").select("data", "after").iter_rows())
    assert {data: found[data] for data in ("index", "splits", "clips")} == {
        data: project.md5s["third"][data] for data in ("index", "splits", "clips")
    }
    assert found["augmentations"] not in {md5s["augmentations"] for md5s in project.md5s.values()}


def test_other_classes_are_compared_as_well(own: Path, project: Project) -> None:
    labels = list(reversed(project.params["third"]["data"]["labels"]))
    set_params(own, {"data": {"labels": labels}})
    dvc("repro", "create_splits", cwd=own)
    assert md5(own / TABLES["splits"]) != project.md5s["third"]["splits"]
    assert DataVersionManager().diff("main", "workspace").is_empty()


# The command line


def command(*arguments: str, root: Path | None = None, code: int = 0) -> str:
    """Return what `python -m commands` prints, in the current directory or in `root`."""
    result = completed(sys.executable, "-m", "commands", *arguments, cwd=root or Path())
    assert "Traceback" not in result.stderr
    assert result.returncode == code, result.stderr
    assert (code == 0) == (result.stderr == "")
    return result.stdout + result.stderr


def fails(*arguments: str, root: Path | None = None) -> str:
    output = command(*arguments, root=root, code=1)
    assert all(line.startswith("data: ") for line in output.splitlines())
    return output


def test_the_table_of_versions_fits_a_terminal(project: Project) -> None:
    output = command("data", root=project.root)
    lines = output.splitlines()
    assert max(map(len, lines)) <= 100
    of_clips = lines[lines.index("clips: data/clips.parquet") + 1 :][:2]
    md5s = [project.md5s[name]["clips"][:8] for name in ("first", "third")]
    assert [line[3:11] for line in of_clips] == md5s
    assert [line[0] for line in of_clips] == [" ", "*"]
    assert project.commits["first"][:8] in of_clips[0]
    labels = list(project.tables["first"]["clips"]["label"])
    assert of_clips[0].endswith(
        f"{labels.count('authentic')} authentic, {labels.count('tampered')} tampered"
    )
    assert "copies" in output


def test_the_table_of_differences_names_each_video(project: Project) -> None:
    before = project.commits["second"]
    output = command("data", "diff", before[:12], "main", root=project.root)
    edited = project.edited
    for change in ("added", "removed", "changed", "relabelled", "renamed", "regrouped"):
        assert re.search(rf"^{change} .*{re.escape(edited[change])}$", output, re.MULTILINE), change
    assert re.search(r"^\d+ videos with differences: 1 added, 1 removed, 1 renamed, 1 changed, ",
                     output, re.MULTILINE)  # fmt: skip
    assert f"splits         {project.md5s['second']['splits'][:8]}" in output


def test_many_differences_are_cut_and_said_to_be(project: Project) -> None:
    names = [project.md5s[name]["clips"] for name in ("first", "third")]
    output = command("data", "diff", *names, "--max-rows", "3", root=project.root)
    table = json.loads(command("data", "diff", *names, "--json", root=project.root))
    assert output.endswith(f"and {len(table) - 3} more: --max-rows shows more, --json all\n")
    assert table[2]["video_path"] in output
    assert table[3]["video_path"] not in output


@pytest.mark.parametrize("question", [["data"], ["data", "diff", "main~1", "main"]])
def test_json_has_the_whole_frame(question: list[str], manager: DataVersionManager) -> None:
    printed = json.loads(command(*question, "--json"))
    table = manager.versions() if len(question) == 1 else manager.diff(*question[2:])
    assert printed == json.loads(table.write_json())
    assert len(printed) == table.height


def test_the_versions_of_a_run_are_printed(project: Project) -> None:
    run = run_of(project.root).name
    output = command("data", "used", run, root=project.root)
    for data in TABLES:
        assert project.md5s["first"][data][:8] in output
        assert project.md5s["third"][data][:8] not in output


def test_a_reader_that_stops_early_is_no_fault(project: Project) -> None:
    line = f"{sys.executable} -m commands data | head -1; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(
        ["bash", "-c", line], cwd=project.root, env=environment(), text=True, capture_output=True,
        check=False,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")


# Faults


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["diff", "nowhere", "main"], "nowhere: expected a revision of git, an experiment, 'work"),
        (["diff", "main", "0123456789"], "0123456789: expected a revision"),
        (["diff", "main", "abc"], "abc: expected a revision of git"),
        (["diff", "main~3", "main"], "main~3: expected a commit with dvc.lock, got one without"),
        (["used", "run_x"], "run_x: expected the id of a run or a directory below runs, found no"),
        (["used", "."], ".: expected the id of a run"),
    ],
    ids=" ".join,
)
def test_what_is_not_known_is_named(arguments: list[str], message: str, project: Project) -> None:
    says = fails("data", *arguments, root=project.root)
    assert says.startswith(f"data: {message}")
    assert ";" in says  # and what to do


def test_content_hashes_of_two_kinds_are_not_compared(project: Project) -> None:
    names = [project.md5s["first"][data] for data in ("splits", "clips")]
    says = fails("data", "diff", *names, root=project.root)
    short = [name[:8] for name in names]
    assert f"expected two versions of the same data, got splits {short[0]} and clips" in says


def test_digits_that_begin_several_names_are_refused(own: Path, project: Project) -> None:
    known = project.md5s["first"]["splits"]
    twin = known[:6] + "0" * 26
    text = Path("dvc.lock").read_text()
    Path("dvc.lock").write_text(text.replace(project.md5s["third"]["splits"], twin))
    says = fails("data", "diff", known[:6], "main")
    assert f"{known[:6]}: expected the first digits of one content hash, got those of" in says
    assert known in says
    assert twin in says
    git("branch", known[:8], cwd=own)
    says = fails("data", "diff", known[:8], "main")
    assert f"{known[:8]}: expected the name of one thing, got one of the commit" in says


def test_without_git_that_is_said(own: Path) -> None:
    shutil.rmtree(".git")
    says = fails("data")
    assert (
        "data: git rev-list: expected an answer about the history, got this is no repository"
        in says
    )


def test_without_any_lock_that_is_said(own: Path) -> None:
    Path("dvc.lock").unlink()
    shutil.rmtree(".git")
    git("init", "--quiet", cwd=own)
    assert "data: dvc.lock: expected one that names data" in fails("data")
    assert "dvc.lock: expected what DVC records" in fails("data", "diff", "workspace", "workspace")


def test_a_lock_that_cannot_be_read_is_said(own: Path) -> None:
    text = Path("dvc.lock").read_text()
    Path("dvc.lock").write_text(text.replace("    outs:\n", "<<<<<<< HEAD\n    outs:\n"))
    says = fails("data")
    assert "data: dvc.lock: expected the file that DVC writes, got a fault" in says
    assert "git checkout HEAD -- dvc.lock" in says


def test_the_manager_raises_what_the_command_prints(own: Path) -> None:
    with pytest.raises(PipelineError, match="nowhere: expected a revision of git"):
        DataVersionManager().diff("nowhere", "main")
    assert own.exists()
