"""Splits keep groups whole, stay when the data grow, and come close to the shares asked for."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from video.splitting.groups import effective_groups
from video.splitting.splits import (
    TEST,
    TRAIN,
    VAL,
    assign_splits,
    best_rebalance,
    class_names,
    deviations,
    split_in_fold,
)

REAL = Path(__file__).parents[3] / "shared" / "real"
INDEX = REAL / "scfd" / "index.csv"
LABELS = ["fake", "real", "unsure"]


def table_of_groups(num_groups: int = 120, *, largest: int = 9) -> pl.DataFrame:
    """Make groups of 1 to `largest` videos, most of one class, some of several, all uneven."""
    generator = np.random.default_rng(0)
    rows = []
    for group in range(num_groups):
        usual = generator.choice(LABELS, p=[0.6, 0.3, 0.1])
        for _ in range(generator.integers(1, largest + 1)):
            label = usual if generator.random() < 0.9 else generator.choice(LABELS)
            rows.append({"group": f"g{group}", "label": str(label)})
    table = pl.DataFrame(rows, schema={"group": pl.String, "label": pl.Enum(LABELS)})
    return table.with_row_index("number").with_columns(video_path=pl.format("{}.mp4", "number"))


def surveillance() -> pl.DataFrame:
    if not INDEX.exists():
        pytest.skip("the real data sets are not beside this checkout")
    return pl.read_csv(INDEX)


def split(
    table: pl.DataFrame, *, rebalance: int = 7, test_share: float = 0.2, num_folds: int = 4
) -> pl.DataFrame:
    return assign_splits(table, test_share=test_share, num_folds=num_folds, rebalance=rebalance)


def closest(table: pl.DataFrame, *, test_share: float = 0.2, num_folds: int = 4) -> pl.DataFrame:
    best = best_rebalance(table, test_share=test_share, num_folds=num_folds)
    return split(table, rebalance=best, test_share=test_share, num_folds=num_folds)


def renamed(table: pl.DataFrame, prefix: int) -> pl.DataFrame:
    """Return the same groups under other names, which the hash assigns elsewhere."""
    return table.with_columns(pl.format("{}{}", pl.lit(prefix), "group").alias("group"))


def part() -> pl.Expr:
    return pl.col("fold").fill_null(-1).alias("part")


# --- parts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rebalance", range(5))
def test_no_group_is_in_two_parts(rebalance: int) -> None:
    parts = split(table_of_groups(), rebalance=rebalance).group_by("group").agg(part().n_unique())

    assert parts["part"].max() == 1


def test_every_row_is_kept_in_its_place() -> None:
    table = table_of_groups()

    assert split(table).select(table.columns).equals(table)


def test_the_split_does_not_depend_on_the_order_of_the_rows() -> None:
    table = table_of_groups()
    shuffled = table.sample(fraction=1.0, shuffle=True, seed=3)

    assert split(shuffled).sort("number").equals(split(table))


def test_the_best_rebalance_does_not_depend_on_the_order_of_the_rows() -> None:
    table = table_of_groups()
    shuffled = table.sample(fraction=1.0, shuffle=True, seed=3)

    assert closest(shuffled).sort("number").equals(closest(table))


def test_another_rebalance_gives_another_split() -> None:
    first, second = (split(table_of_groups(), rebalance=number) for number in (7, 8))

    assert not first.equals(second)


def test_videos_that_come_move_no_others() -> None:
    table = table_of_groups()
    known = table.sample(fraction=0.9, shuffle=True, seed=1).sort("number")

    before, after = split(known), split(table)

    assert after.height > 1.1 * before.height
    assert after.join(known, on="number", how="semi").equals(before)


def test_a_group_that_comes_or_goes_moves_no_others() -> None:
    table = table_of_groups()
    fewer = table.filter(pl.col("group") != "g3")

    kept = split(table).filter(pl.col("group") != "g3")
    assert split(fewer).equals(kept)


def test_a_link_found_later_moves_the_group_with_the_larger_name_only() -> None:
    rows = [(str(number), f"g{number // 3:02}") for number in range(90)]
    videos = pl.DataFrame(rows, schema=["sha256", "group"], orient="row")
    before, after = (
        split(videos.with_columns(group=pl.Series(effective_groups(videos, links))))
        for links in ([], [(0, 89)])
    )

    assert before["fold"][:87].equals(after["fold"][:87])
    assert set(after["fold"][87:]) == {before["fold"][0]}


def test_the_number_of_folds_does_not_move_the_test_set() -> None:
    tests = [
        assign_splits(table_of_groups(), test_share=0.2, num_folds=folds, rebalance=7)
        .filter(split=TEST)
        .drop("fold")
        for folds in (2, 5)
    ]

    assert tests[0].equals(tests[1])


def test_a_larger_test_set_holds_the_smaller_one() -> None:
    small, large = (
        set(split(table_of_groups(), test_share=share).filter(split=TEST)["number"])
        for share in (0.2, 0.4)
    )

    assert small < large


@pytest.mark.parametrize("prefix", range(5))
def test_every_part_has_its_share_of_every_class(prefix: int) -> None:
    table = closest(renamed(table_of_groups(), prefix))
    totals = dict(table["label"].value_counts().iter_rows())

    for (_, label), rows in table.group_by(part(), "label"):
        assert rows.height / totals[label] == pytest.approx(0.2, abs=0.08)


def test_a_part_twice_as_large_gets_twice_as_much() -> None:
    table = closest(table_of_groups(), test_share=0.5)

    assert (table["split"] == TEST).mean() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("prefix", range(5))
def test_the_surveillance_clips_split_close_to_their_shares(prefix: int) -> None:
    """44 groups, the largest with 30 of 300 clips, nearly all with both classes."""
    table = closest(renamed(surveillance(), prefix))

    shares = table.group_by(part(), "label").agg(share=pl.len() / 150)

    assert shares.height == 10
    assert shares["share"].is_between(0.12, 0.28).all()


def test_every_class_is_in_every_part_where_it_has_as_many_groups_as_parts() -> None:
    rare = [{"group": f"r{i}", "label": "rare"} for i in range(5)]
    common = [{"group": f"c{i}", "label": "common"} for i in range(500)]

    table = closest(pl.DataFrame(rare + common))

    assert sorted(table.filter(label="rare").select(part())["part"]) == [-1, 0, 1, 2, 3]


def test_a_class_in_every_part_counts_more_than_the_shares() -> None:
    """A group with the rare class is far too large for the test set."""
    rare = [(f"r{i}", label) for i in range(4) for label in ["rare"] + ["common"] * 30]
    table = pl.DataFrame(
        rare + [(f"c{i}", "common") for i in range(40)], schema=["group", "label"], orient="row"
    )

    table = closest(table, test_share=0.05, num_folds=3)

    assert sorted(table.filter(label="rare").select(part())["part"]) == [-1, 0, 1, 2]


def test_a_test_video_is_in_no_fold_and_every_other_in_one() -> None:
    table = split(table_of_groups())

    assert (table["fold"].is_null() == (table["split"] == TEST)).all()
    assert set(table["fold"].drop_nulls()) == {0, 1, 2, 3}


def test_the_split_tells_the_roles_of_the_first_cell() -> None:
    table = split(table_of_groups())

    assert table["split"].equals(table.select(split=split_in_fold(pl.col("fold"), 0))["split"])


@pytest.mark.parametrize("cell", range(4))
def test_a_cell_validates_on_its_fold_and_trains_on_the_others(cell: int) -> None:
    roles = pl.DataFrame({"fold": [None, 0, 1, 2, 3]}, schema={"fold": pl.Int64}).select(
        role=split_in_fold(pl.col("fold"), cell)
    )["role"]

    assert roles.to_list() == [TEST, *(VAL if fold == cell else TRAIN for fold in range(4))]


@pytest.mark.parametrize("seed", range(20))
def test_forty_scenes_are_divided_as_evenly_as_whole_scenes_allow(seed: int) -> None:
    """The sample of a fresh clone: 40 scenes of 6 videos, most with both labels."""
    generator = np.random.default_rng(seed)
    rows = [
        {"group": f"scene_{scene:03}", "label": "tampered" if version < tampered else "authentic"}
        for scene in range(40)
        for tampered in [int(generator.choice([0, 2, 3, 6], p=[0.15, 0.45, 0.3, 0.1]))]
        for version in range(6)
    ]
    table = pl.DataFrame(rows)
    best = best_rebalance(table, test_share=0.2, num_folds=5)
    shares = {"test_share": 0.2, "num_folds": 5}
    parts = assign_splits(table, test_share=0.2, num_folds=5, rebalance=best)
    groups = dict(parts.group_by("fold").agg(pl.col("group").n_unique()).iter_rows())

    assert 7 <= groups[None] <= 9
    assert all(5 <= groups[fold] <= 8 for fold in range(5))
    assert max(item.worst for item in deviations(parts, **shares)) < 0.08


def test_the_values_of_a_column_are_divided_like_the_labels() -> None:
    table = table_of_groups(400)
    platform = pl.col("group").str.slice(1).cast(pl.Int64).mod(3).eq(0).cast(pl.String)
    table = table.with_columns(platform=platform)
    best = best_rebalance(table, test_share=0.2, num_folds=4, stratify=["platform"])

    found = deviations(
        split(table, rebalance=best), test_share=0.2, num_folds=4, stratify=["platform"]
    )

    assert [item.name for item in found[:4]] == [*LABELS, "fake, platform false"]
    assert len(found) == 9
    assert max(item.worst for item in found if item.videos > 200) < 0.1


def test_the_deviation_of_a_class_is_that_of_its_worst_part() -> None:
    rows = [("a", "x", None), ("b", "x", 0), ("b", "x", 0), ("c", "x", 1)]
    table = pl.DataFrame(rows, schema=["group", "label", "fold"], orient="row")

    (found,) = deviations(table, test_share=0.2, num_folds=2)

    assert found.worst == pytest.approx(0.15)  # 1 of 4 in fold 1, where 0.4 belong
    assert found.part == 2
    assert found.videos == 4


def test_no_split_of_few_groups_beats_the_bound() -> None:
    generator = np.random.default_rng(0)
    for _ in range(10):
        sizes = generator.integers(1, 9, 6).tolist()
        rows = [(f"g{i}", "x") for i, size in enumerate(sizes) for _ in range(size)]
        table = pl.DataFrame(rows, schema=["group", "label"], orient="row")
        found = [
            deviations(split(table, rebalance=number), test_share=0.2, num_folds=4)[0]
            for number in range(50)
        ]
        assert len({item.bound for item in found}) == 1
        assert min(item.worst for item in found) >= found[0].bound - 1e-12


def test_a_group_larger_than_every_part_is_in_the_bound() -> None:
    table = pl.DataFrame(
        [("large", "x")] * 9 + [("small", "x")], schema=["group", "label"], orient="row"
    )

    (found,) = deviations(split(table), test_share=0.2, num_folds=4)

    assert found.bound == pytest.approx(0.7)  # 9 of 10 where at most 0.2 belong


# --- classes -----------------------------------------------------------------------------------


def test_the_classes_keep_the_order_of_the_label_type() -> None:
    table = pl.DataFrame({"label": ["b"]}, schema={"label": pl.Enum(["z", "b", "a"])})

    assert class_names(table) == ["z", "b", "a"]


def test_labels_without_an_order_are_refused() -> None:
    with pytest.raises(ValueError, match=r"type Enum, got String; run load_data again"):
        class_names(pl.DataFrame({"label": ["b"]}))
