"""A split that the index gives is followed to the row, and what it divides is told."""

import numpy as np
import polars as pl
import pytest

from tests.support.fingerprints import without_windows
from video.splitting.cells import cell_clips
from video.splitting.given import ALWAYS_TRAINS, assign_given, divided_groups, free_videos
from video.splitting.leakage import LeakageError

GIVEN_SPLIT = ["test", "train", "train", "val"]


def videos_of(parts: list[str], num_videos: int = 80, per_group: int = 1) -> pl.DataFrame:
    words = np.random.default_rng(0).integers(0, 2**64, (num_videos, 16), dtype=np.uint64)
    words.reshape(num_videos, 4, 4)[:, :, 2:] = 2**64 - 1  # contrast everywhere
    return pl.DataFrame(
        {
            "video_path": [f"{i}.mp4" for i in range(num_videos)],
            "sha256": [f"{i:064}" for i in range(num_videos)],
            "group": [f"g{i // per_group}" for i in range(num_videos)],
            "label": ["a" if i % 8 < 4 else "b" for i in range(num_videos)],
            "fingerprint": [without_windows(each) for each in words],
            "given_split": [parts[i % len(parts)] for i in range(num_videos)],
        },
        schema_overrides={"label": pl.Enum(["a", "b"]), "fingerprint": pl.List(pl.UInt64)},
    )


def roles(videos: pl.DataFrame, fold: int, *, accept: bool) -> dict[str, list[str]]:
    splits = assign_given(videos, num_folds=4, rebalance=0)
    clips = videos.with_columns(clip_sha256=pl.col("sha256"))
    cell = cell_clips(splits, clips, fold, near_duplicate_distance=0.2, accept_given_leaks=accept)
    return {role: table["video_path"].to_list() for role, table in cell.items()}


def test_every_row_is_in_the_part_that_it_names() -> None:
    videos = videos_of(GIVEN_SPLIT)

    splits = assign_given(videos, num_folds=4, rebalance=0)

    assert splits["split"].to_list() == videos["given_split"].to_list()
    assert splits["fold"].to_list() == [None, ALWAYS_TRAINS, ALWAYS_TRAINS, 0] * 20
    assert free_videos(videos).is_empty()


def test_without_validation_videos_folds_divide_what_is_no_test() -> None:
    videos = videos_of(["test", "train", "train", "train"])

    splits = assign_given(videos, num_folds=4, rebalance=0)

    assert splits["fold"].is_null().to_list() == [True, False, False, False] * 20
    assert set(splits["fold"].drop_nulls()) == {0, 1, 2, 3}
    assert free_videos(videos).height == 60
    assert roles(videos, 2, accept=False)["val"] == (splits.filter(fold=2)["video_path"].to_list())


def test_the_one_validation_set_is_fold_0() -> None:
    videos = videos_of(GIVEN_SPLIT)

    assert roles(videos, 0, accept=False)["val"] == [f"{i}.mp4" for i in range(3, 80, 4)]
    with pytest.raises(LeakageError) as caught:
        roles(videos, 1, accept=False)
    assert str(caught.value) == (
        "fold 1: expected videos to validate on, got none; where the index gives a val part, it is "
        "fold 0, and the only one: set folds: [0]"
    )


@pytest.mark.parametrize("parts", [GIVEN_SPLIT, ["test", "train", "train", "train"]])
def test_leaks_of_given_parts_pass_only_where_they_are_accepted(parts: list[str]) -> None:
    videos = videos_of(parts, per_group=4)  # every group in all parts

    with pytest.raises(LeakageError, match="share the group"):
        roles(videos, 0, accept=False)
    if "val" in parts:
        assert len(roles(videos, 0, accept=True)["test"]) == 20


def test_where_folds_are_made_training_and_validation_share_nothing_all_the_same() -> None:
    videos = videos_of(["test", "train", "train", "train"])
    splits = assign_given(videos, num_folds=2, rebalance=0)
    same = splits.filter(pl.col("fold").is_not_null()).group_by("fold").first()["video_path"]
    group = pl.when(pl.col("video_path").is_in(same.to_list())).then(pl.lit("one"))
    splits = splits.with_columns(group=group.otherwise("group"))
    clips = videos.with_columns(clip_sha256=pl.col("sha256"))

    with pytest.raises(LeakageError, match="train and val share the group one"):
        cell_clips(splits, clips, 0, near_duplicate_distance=0.2, accept_given_leaks=True)


def test_divided_groups_are_named_with_their_parts() -> None:
    videos = videos_of(GIVEN_SPLIT, num_videos=8, per_group=2)

    assert divided_groups(videos, "given_split").rows() == [
        ("g0", 2, ["test", "train"]),
        ("g1", 2, ["train", "val"]),
        ("g2", 2, ["test", "train"]),
        ("g3", 2, ["train", "val"]),
    ]
    splits = assign_given(videos, num_folds=2, rebalance=0)
    assert divided_groups(splits, "fold")["parts"].to_list()[:2] == [[-1, None], [-1, 0]]
    assert divided_groups(videos_of(GIVEN_SPLIT), "given_split").is_empty()
