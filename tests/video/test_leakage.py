"""Nothing that two splits share gets past the gate, and nothing that cannot be judged."""

import numpy as np
import polars as pl
import pytest

from tests.support.fingerprints import without_windows
from video.splitting.cells import COPIES, cell_clips
from video.splitting.fingerprints import WORDS_PER_HASH
from video.splitting.leakage import LeakageError, check_disjoint, check_pictures

IDENTITIES = ("group", "sha256", "clip_sha256")


def part(name: str, num_rows: int = 3) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "video_path": [f"{name}{i}.mp4" for i in range(num_rows)],
            "group": [f"group of {name}{i}" for i in range(num_rows)],
            "sha256": [f"video of {name}{i}" for i in range(num_rows)],
            "clip_sha256": [f"clip of {name}{i}" for i in range(num_rows)],
        }
    )


def with_value(table: pl.DataFrame, row: int, column: str, value: str | None) -> pl.DataFrame:
    values = table[column].to_list()
    values[row] = value
    return table.with_columns(pl.Series(column, values, dtype=pl.String))


def faults_of(parts: dict[str, pl.DataFrame]) -> list[str]:
    with pytest.raises(LeakageError) as caught:
        check_disjoint(parts)
    return str(caught.value).splitlines()


def test_splits_that_share_nothing_pass() -> None:
    check_disjoint({"train": part("a"), "val": part("b"), "test": part("c")})


def test_a_split_may_hold_a_video_many_times() -> None:
    check_disjoint({"train": pl.concat([part("a"), part("a")]), "test": part("c")})


@pytest.mark.parametrize("column", IDENTITIES)
def test_every_kind_of_shared_content_is_caught_with_the_pair_named(column: str) -> None:
    train = part("a")
    test = with_value(part("c"), 2, column, train[column][1])

    assert faults_of({"train": train, "test": test}) == [
        f"test and train share the {column} {train[column][1]}: 'c2.mp4' and 'a1.mp4'; run "
        "create_splits again"
    ]


@pytest.mark.parametrize(
    ("first", "second"), [("train", "val"), ("train", "test"), ("val", "test")]
)
def test_every_two_splits_are_compared(first: str, second: str) -> None:
    parts = {"train": part("a"), "val": part("b"), "test": part("c")}
    parts[first] = with_value(parts[first], 0, "group", "shared")
    parts[second] = with_value(parts[second], 0, "group", "shared")

    (fault,) = faults_of(parts)

    assert {first, second} == set(fault.split(" share the group shared")[0].split(" and "))


def test_all_kinds_of_leaks_are_told_at_once() -> None:
    faults = faults_of({"train": part("a"), "test": part("a")})

    assert [fault.split()[5] for fault in faults] == list(IDENTITIES)


@pytest.mark.parametrize("column", IDENTITIES)
def test_a_table_without_an_identity_cannot_pass(column: str) -> None:
    faults = faults_of({"train": part("a").drop(column), "test": part("c")})

    assert faults == [f"train: expected a column {column}, without it nothing is proven"]


@pytest.mark.parametrize("column", IDENTITIES)
def test_an_empty_identity_cannot_pass(column: str) -> None:
    faults = faults_of({"train": part("a"), "test": with_value(part("c"), 1, column, None)})

    assert faults == [f"test: expected a {column} in every row, got empty ones"]


# --- pictures ----------------------------------------------------------------------------------


def showing(name: str, differing_bits: int) -> pl.DataFrame:
    """Return a part of one video whose hashes differ from zeros in so many of 128 bits."""
    words = [2**differing_bits - 1, 0, 2**64 - 1, 2**64 - 1]
    assert len(words) == WORDS_PER_HASH
    schema = {"video_path": pl.String, "fingerprint": pl.List(pl.UInt64)}
    return pl.DataFrame(
        {"video_path": [name], "fingerprint": [without_windows(words * 4)]}, schema=schema
    )


def test_the_same_footage_in_two_splits_is_caught_with_the_closest_pair() -> None:
    parts = {
        "train": pl.concat([showing("a", 0), showing("b", 6)]),
        "test": showing("c", 8),
    }

    with pytest.raises(LeakageError) as caught:
        check_pictures(parts, max_distance=0.2)

    assert str(caught.value) == (
        "test and train show the same pictures: 'c' and 'b', at a distance of 0.044; run "
        "create_splits again"
    )


@pytest.mark.parametrize(
    ("max_distance", "differing_bits"),
    [
        (0.2, 28),  # farther than what create_splits joins
        (0.05, 8),  # farther than what create_splits was told to join
        (0.0, 0),  # it was told not to look
    ],
)
def test_what_was_set_apart_on_purpose_passes(max_distance: float, differing_bits: int) -> None:
    check_pictures(
        {"train": showing("a", 0), "test": showing("b", differing_bits)}, max_distance=max_distance
    )


# --- cells -------------------------------------------------------------------------------------


def tables() -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Make splits, clips and augmented copies of six videos: two for test, two per fold."""
    names = part("v", 6)
    splits = names.drop("clip_sha256").with_columns(fold=pl.Series([None, None, 0, 0, 1, 1]))
    generator = np.random.default_rng(0)
    words = generator.integers(0, 2**64, (6, WORDS_PER_HASH), dtype=np.uint64)
    words[:, 2:] = 2**64 - 1
    column = pl.Series([without_windows(each) for each in words], dtype=pl.List(pl.UInt64))
    clips = names.with_columns(fingerprint=column)
    copies = names[2:].with_columns(pl.format("copy of {}", "clip_sha256").alias("clip_sha256"))
    return splits, clips, copies


@pytest.mark.parametrize("fold", [0, 1])
def test_a_cell_trains_on_the_copies_of_its_training_videos_alone(fold: int) -> None:
    splits, clips, copies = tables()

    cell = cell_clips(splits, clips, fold, near_duplicate_distance=0.2, copies=copies)

    assert cell["test"]["video_path"].to_list() == ["v0.mp4", "v1.mp4"]
    for role, of_fold in (("val", fold), ("train", 1 - fold), (COPIES, 1 - fold)):
        names = [f"v{2 + 2 * of_fold}.mp4", f"v{3 + 2 * of_fold}.mp4"]
        assert cell[role]["video_path"].to_list() == names


def test_what_the_splits_call_one_group_may_not_be_apart() -> None:
    splits, clips, _ = tables()
    joined = with_value(splits, 4, "group", "group of v2")

    with pytest.raises(LeakageError) as caught:
        cell_clips(joined, clips, 0, near_duplicate_distance=0.2)

    assert str(caught.value) == (
        "train and val share the group group of v2: 'v4.mp4' and 'v2.mp4'; run create_splits again"
    )
