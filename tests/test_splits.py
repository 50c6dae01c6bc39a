"""Splits deal whole groups, by the groups alone, close to the shares asked for."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from video.splits import (
    TEST,
    TRAIN,
    VAL,
    assign_splits,
    class_names,
    effective_groups,
    split_in_fold,
)

INDEX = Path(__file__).parents[2] / "shared" / "real" / "scfd" / "index.csv"
LABELS = ["fake", "real", "unsure"]


def table_of_groups(num_groups: int = 120, *, largest: int = 9) -> pl.DataFrame:
    """Groups of 1 to `largest` videos, most of one class, some of several, all classes uneven."""
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


def split(table: pl.DataFrame, *, seed: int = 0) -> pl.DataFrame:
    return assign_splits(table, test_share=0.2, num_folds=4, seed=seed)


def part() -> pl.Expr:
    return pl.col("fold").fill_null(-1).alias("part")


# --- groups ------------------------------------------------------------------------------------


def joined(*rows: tuple[str, str | None]) -> list[str]:
    schema = {"sha256": pl.String, "group": pl.String}
    return effective_groups(pl.DataFrame(rows, schema=schema, orient="row"))


def test_videos_of_a_group_stay_in_it() -> None:
    assert joined(("a", "g"), ("b", "g"), ("c", "h")) == ["g", "g", "h"]


def test_videos_without_a_group_are_groups_of_their_own() -> None:
    groups = joined(("a", None), ("b", None), ("c", "g"))

    assert len(set(groups)) == 3


def test_exact_copies_without_a_group_are_one_group() -> None:
    first, second = joined(("a", None), ("a", None))

    assert first == second


def test_exact_copies_under_two_names_join_the_two_groups() -> None:
    assert joined(("a", "h"), ("b", "h"), ("a", "g"), ("c", "g")) == ["g"] * 4


def test_groups_are_joined_over_many_links() -> None:
    chain = [(str(i // 2), f"g{(i + 1) // 2}") for i in range(40)]

    assert set(joined(*chain)) == {"g0"}


def test_a_video_without_a_group_joins_the_group_of_its_copy() -> None:
    assert joined(("a", None), ("b", "g"), ("a", "g")) == ["g", "g", "g"]


def test_joined_groups_have_the_same_names_in_every_order_of_the_rows() -> None:
    rows = [("a", "h"), ("a", "g"), ("b", "g"), ("b", "k"), ("c", None), ("d", "m")]
    expected = dict(zip(rows, joined(*rows), strict=True))

    for shift in range(len(rows)):
        turned = rows[shift:] + rows[:shift]
        assert dict(zip(turned, joined(*turned), strict=True)) == expected


# --- parts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_no_group_is_in_two_parts(seed: int) -> None:
    parts = split(table_of_groups(), seed=seed).group_by("group").agg(part().n_unique())

    assert parts["part"].max() == 1


def test_every_row_is_kept_in_its_place() -> None:
    table = table_of_groups()

    assert split(table).select(table.columns).equals(table)


def test_the_split_does_not_depend_on_the_order_of_the_rows() -> None:
    table = table_of_groups()
    shuffled = table.sample(fraction=1.0, shuffle=True, seed=3)

    assert split(shuffled).sort("number").equals(split(table))


def test_another_seed_gives_another_split() -> None:
    table = table_of_groups()

    assert not split(table, seed=0).equals(split(table, seed=1))


@pytest.mark.parametrize("seed", range(5))
def test_every_part_has_its_share_of_every_class(seed: int) -> None:
    table = split(table_of_groups(), seed=seed)
    totals = dict(table["label"].value_counts().iter_rows())

    for (_, label), rows in table.group_by(part(), "label"):
        assert rows.height / totals[label] == pytest.approx(0.2, abs=0.05)


def test_a_part_twice_as_large_gets_twice_as_much() -> None:
    table = assign_splits(table_of_groups(), test_share=0.5, num_folds=2, seed=0)

    assert (table["split"] == TEST).mean() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("seed", range(5))
def test_the_surveillance_clips_split_close_to_their_shares(seed: int) -> None:
    """44 groups, the largest with 30 of 300 clips, nearly all with both classes."""
    table = split(surveillance(), seed=seed)

    shares = table.group_by(part(), "label").agg(share=pl.len() / 150)

    assert shares.height == 10
    assert shares["share"].is_between(0.12, 0.28).all()


def test_every_class_is_in_every_part_where_it_has_as_many_groups_as_parts() -> None:
    rare = [{"group": f"r{i}", "label": "rare"} for i in range(5)]
    common = [{"group": f"c{i}", "label": "common"} for i in range(500)]

    table = split(pl.DataFrame(rare + common))

    assert sorted(table.filter(label="rare").select(part())["part"]) == [-1, 0, 1, 2, 3]


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


# --- classes -----------------------------------------------------------------------------------


def test_the_classes_keep_the_order_of_the_label_type() -> None:
    table = pl.DataFrame({"label": ["b"]}, schema={"label": pl.Enum(["z", "b", "a"])})

    assert class_names(table) == ["z", "b", "a"]


def test_labels_without_an_order_are_refused() -> None:
    with pytest.raises(ValueError, match=r"type Enum, got String; run load_data again"):
        class_names(pl.DataFrame({"label": ["b"]}))
