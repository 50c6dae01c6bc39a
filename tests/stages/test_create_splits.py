"""The stage joins what shows the same, lists what the index does not know, and says how to mend."""

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from ruamel.yaml import YAML

from tests.support.clone import ROOT, completed
from tests.support.fingerprints import without_windows


class Project:
    """Params.yaml and a table of videos as load_data writes it, the last two rows alike."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "data").mkdir()
        self.write_params({})
        words = np.random.default_rng(0).integers(0, 2**64, (62, 16), dtype=np.uint64)
        words.reshape(62, 4, 4)[:, :, 2:] = 2**64 - 1  # contrast everywhere
        words[61] = words[60]
        words[61, ::4] ^= np.uint64(1)
        self.videos = pl.DataFrame(
            {
                "video_path": [f"{i}.mp4" for i in range(62)],
                "sha256": [f"{i:02}" + "0" * 62 for i in range(62)],
                "group": [f"g{i // 2:02}" for i in range(60)] + ["k", None],
                "label": ["a" if i % 4 < 2 else "b" for i in range(62)],
                "fingerprint": [without_windows(each) for each in words],
                "platform": ["phone" if i % 3 else "web" for i in range(62)],
            },
            schema_overrides={"label": pl.Enum(["a", "b"]), "fingerprint": pl.List(pl.UInt64)},
        )

    def write_params(self, changes: dict[str, Any]) -> None:
        yaml = YAML()
        document = yaml.load(ROOT / "params.yaml")
        document["split"].update({"num_folds": 3} | changes)
        yaml.dump(document, self.root / "params.yaml")

    def run(self, videos: pl.DataFrame, **changes: Any) -> tuple[int, str]:
        self.write_params(changes)
        videos = videos.with_columns(linked_group="group")
        videos.write_parquet(self.root / "data/videos.parquet")
        command = (sys.executable, "-m", "stages.create_splits")
        result = completed(*command, cwd=self.root, PYTHONPATH=str(ROOT))
        return result.returncode, result.stdout + result.stderr

    def splits(self) -> pl.DataFrame:
        return pl.read_parquet(self.root / "data/splits.parquet")

    def duplicates(self) -> list[tuple[Any, ...]]:
        return pl.read_csv(self.root / "data/duplicates.csv").rows()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_a_link_that_the_index_does_not_name_joins_and_is_listed(project: Project) -> None:
    code, output = project.run(project.videos)

    assert code == 0, output
    assert project.splits()["group"].to_list()[60:] == ["k", "k"]
    assert project.duplicates() == [
        ("near", 0.0368, "as it is", "60.mp4", "61.mp4", "a", "a", "k", None)
    ]
    assert "0 copies and 1 pairs of near-duplicates that the index does not name" in output
    assert "31 groups, 0 of them with more than one label (0 videos)" in output


def test_copies_across_groups_are_listed_once_and_their_labels_with_them(project: Project) -> None:
    copied = project.videos.with_columns(
        sha256=pl.when(pl.col("video_path") == "2.mp4")
        .then(pl.lit("00" + "0" * 62))
        .otherwise("sha256")
    )
    code, output = project.run(copied, near_duplicate_distance=0.0)

    assert code == 0, output
    assert project.duplicates() == [
        ("exact", 0.0, "as it is", "0.mp4", "2.mp4", "a", "b", "g00", "g01")
    ]
    assert "1 of them with different labels" in output
    assert "1 of them with more than one label (4 videos)" in output


def test_a_distance_of_nothing_turns_the_search_off(project: Project) -> None:
    alike = project.videos.with_columns(pl.col("fingerprint").last())
    assert project.run(alike, near_duplicate_distance=0.0)[0] == 0

    assert project.splits()["group"].n_unique() == 32
    assert project.duplicates() == []


def test_links_that_make_most_videos_one_group_are_refused_with_the_pairs(
    project: Project,
) -> None:
    alike = project.videos.with_columns(pl.col("fingerprint").last())

    code, output = project.run(alike)

    assert code == 1
    assert output.count("\n") == output.rstrip().count("\n") + 1
    assert "expected at most 50% of the videos in one group, got 62 of 62" in output
    assert "the closest '0.mp4' and '10.mp4' at 0.029; '0.mp4' and" in output
    assert "look at the pairs in data/duplicates.csv" in output
    assert "lower split.near_duplicate_distance (0 joins exact copies only)" in output
    assert len(project.duplicates()) > 1000


def test_a_large_group_of_the_index_is_the_index_s_own(project: Project) -> None:
    code, output = project.run(
        project.videos.with_columns(
            group=pl.when(pl.int_range(62) < 40).then(pl.lit("g")).otherwise("group"),
            label=pl.Series(["a", "b"] * 31, dtype=pl.Enum(["a", "b"])),
        )
    )

    assert code == 0, output


def test_videos_that_could_not_be_compared_are_named(project: Project) -> None:
    dark = pl.when(pl.col("video_path").is_in(["3.mp4", "7.mp4"]))
    code, output = project.run(
        project.videos.with_columns(
            dark.then(pl.lit([], pl.List(pl.UInt64))).otherwise("fingerprint").alias("fingerprint")
        )
    )

    assert code == 0, output
    assert "2 videos without contrast could not be compared with others: 3.mp4, 7.mp4;" in output
    assert project.duplicates()[1:] == [
        ("not compared", None, None, path, None, label, None, group, None)
        for path, label, group in (("3.mp4", "b", "g01"), ("7.mp4", "b", "g03"))
    ]


def test_the_number_that_auto_prints_gives_the_same_split(project: Project) -> None:
    _, output = project.run(project.videos, rebalance="auto")
    chosen = project.splits()
    number = int(output.split("rebalance auto is ")[1].split()[0])

    code, output = project.run(project.videos, rebalance=number)

    assert code == 0, output
    assert project.splits().equals(chosen)
    assert "would bring" not in output


def test_as_it_comes_a_tenth_more_videos_moves_none(project: Project) -> None:
    shuffled = project.videos.sample(fraction=1.0, shuffle=True, seed=0)
    project.run(shuffled[:55])
    before = project.splits()
    code, output = project.run(shuffled)

    assert code == 0, output
    assert project.splits()[:55].equals(before)


def test_a_number_that_is_not_the_best_is_kept_and_the_best_is_named(project: Project) -> None:
    outputs = [project.run(project.videos, rebalance=number)[1] for number in range(4)]

    assert any("would bring the largest deviation from" in output for output in outputs)


def test_a_part_without_a_class_names_the_number_that_gives_it_one(project: Project) -> None:
    few = project.videos[:24]
    outputs = [project.run(few, rebalance=number)[1] for number in range(3)]

    assert any("few groups with it: set split.rebalance to " in output for output in outputs)


def test_an_unknown_column_to_stratify_by_is_refused_with_the_known_ones(project: Project) -> None:
    code, output = project.run(project.videos, stratify=["platfrom"])

    assert code != 0
    assert "split.stratify: expected columns of data/videos.parquet, got 'platfrom'" in output
    assert "fingerprint, platform" in output


def test_the_deviation_of_every_stratum_is_reported_beside_its_bound(project: Project) -> None:
    _, output = project.run(project.videos, stratify=["platform"])

    for name in ("a", "b", "a, platform phone", "b, platform web"):
        assert f"create_splits: {name}: " in output
    assert output.count("whole groups allow no less than") == 6


def test_a_given_group_of_most_videos_is_named_as_what_leaves_little_to_divide(
    tmp_path: Path,
) -> None:
    project = Project(tmp_path)
    groups = [f"g{i}" if i < 30 else "unknown" for i in range(62)]
    _, output = project.run(project.videos.with_columns(group=pl.Series(groups)), rebalance="auto")
    assert (
        "create_splits: warning: group 'unknown' of the index has 32 of 62 videos, which leaves "
        "little to divide; leave the field empty for videos of no group"
    ) in output
    assert "group 'unknown'" not in project.run(project.videos, rebalance="auto")[1]


def test_what_auto_has_chosen_stays_when_videos_come(project: Project) -> None:
    project.run(project.videos[:40], rebalance="auto")
    before, kept = project.splits(), (project.root / "data/rebalance.yaml").read_text()

    code, output = project.run(project.videos, rebalance="auto")

    assert code == 0, output
    assert project.splits()[:40].equals(before)
    assert (project.root / "data/rebalance.yaml").read_text() == kept
    assert re.search(r"\ndata/generated_sample/index.csv: \d+\n$", kept)
    assert "from now on" not in output


def test_a_record_of_auto_that_cannot_be_read_is_refused(project: Project) -> None:
    (project.root / "data/rebalance.yaml").write_text("data/mine/index.csv: best\n")

    code, output = project.run(project.videos, rebalance="auto")

    assert code == 1
    assert (
        "data/rebalance.yaml: expected lines as in data/mine/index.csv: 412, got "
        "{'data/mine/index.csv': 'best'}; mend them, or remove the file to choose anew"
    ) in output


def given(project: Project) -> pl.DataFrame:
    """Return the videos in parts by groups, but for the last two, which look alike."""
    parts = ["train", "train", "train", "val", "test"]
    groups = [min(i // 2, 30) for i in range(62)]
    part = [parts[group % 5] for group in groups[:61]] + ["test"]
    return project.videos.with_columns(given_split=pl.Series(part))


def test_what_looks_alike_in_two_given_parts_stops_the_stage_with_the_pair(
    project: Project,
) -> None:
    code, output = project.run(given(project))

    assert code == 1
    assert (
        "create_splits: expected given parts that share nothing, got 1 group in several parts; "
        "give each group one part, leave data.split_column empty, or accept a score that is too "
        "good: split.accept_given_leaks: true"
    ) in output
    assert "'60.mp4' (train) and '61.mp4' (test) show the same, at a distance of 0.037" in output
    assert project.duplicates()[0][3:5] == ("60.mp4", "61.mp4")


def test_leaks_that_are_accepted_are_warned_of_and_each_row_keeps_its_part(
    project: Project,
) -> None:
    videos = given(project)

    code, output = project.run(videos, accept_given_leaks=True)

    assert code == 0, output
    assert "warning: group 'k': its 2 videos are in test and train" in output
    assert project.splits()["split"].to_list() == videos["given_split"].to_list()
    assert "create_splits: train: " in output
    assert "would bring" not in output


def test_folds_are_made_of_what_is_not_given_to_the_test_set(project: Project) -> None:
    videos = given(project)[:60].with_columns(pl.col("given_split").replace("val", "train"))

    code, output = project.run(videos, rebalance="auto")

    assert code == 0, output
    assert (project.splits()["split"] == "test").equals(videos["given_split"] == "test")
    assert set(project.splits()["fold"]) == {None, 0, 1, 2}
    assert "rebalance auto is" in output


def test_a_given_part_without_a_class_is_named(project: Project) -> None:
    videos = given(project)[:60].filter((pl.col("given_split") != "val") | (pl.col("label") == "a"))

    code, output = project.run(videos)

    assert code == 1
    assert (
        "fold 0: expected videos of every class, got none of 'b'; give some of its videos this part"
    ) in output
