"""Two versions of a table: every row that differs is told, with what it was and what it is."""

import polars as pl
import pytest

from mlops.recorded.differences import row_differences

COLUMNS = ["key", "content", "label", "group", "part"]


def table(*rows: str) -> pl.DataFrame:
    """Make a table from rows of "key content label group part"."""
    return pl.DataFrame([row.split() for row in rows], schema=COLUMNS, orient="row")


def differences(before: pl.DataFrame, after: pl.DataFrame) -> list[tuple[str | None, ...]]:
    found = row_differences(before, after)
    assert found.columns == ["key", "change", "before", "after"]
    return list(found.iter_rows())


BEFORE = table("a 1 x g test", "b 2 x g test", "c 3 y h fold0", "d 4 y h fold0")


def test_equal_tables_differ_in_nothing() -> None:
    assert differences(BEFORE, BEFORE.reverse()) == []


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ("b 9 x g test", ("b", "changed", "2", "9")),
        ("b 2 y g test", ("b", "relabelled", "x", "y")),
        ("b 2 x g fold1", ("b", "moved", "test", "fold1")),
        ("b 2 x h test", ("b", "regrouped", "g", "h")),
        ("b 2 x new test", ("b", "regrouped", "g", "new")),
        ("z 2 x g test", ("z", "renamed", "b", "z")),
    ],
)
def test_each_difference_is_told_alone(after: str, expected: tuple[str, ...]) -> None:
    rest = BEFORE.filter(pl.col("key") != "b")
    assert differences(BEFORE, pl.concat([rest, table(after)])) == [expected]


def test_what_comes_and_what_goes_is_told_with_its_part() -> None:
    assert differences(BEFORE, table("a 1 x g test", "e 5 x k fold2")) == [
        ("e", "added", None, "fold2"),
        ("b", "removed", "test", None),
        ("c", "removed", "fold0", None),
        ("d", "removed", "fold0", None),
    ]


def test_a_renamed_row_is_compared_with_what_it_was() -> None:
    after = table("a 1 x g test", "z 2 y g fold1", "c 3 y h fold0", "d 4 y h fold0")
    assert differences(BEFORE, after) == [
        ("z", "renamed", "b", "z"),
        ("z", "relabelled", "x", "y"),
        ("z", "moved", "test", "fold1"),
    ]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (["a 1 x g test", "b 1 x g test"], ["z 1 x g test"]),
        (["a 1 x g test"], ["y 1 x g test", "z 1 x g test"]),
    ],
    ids=["two are gone", "two are new"],
)
def test_a_copy_of_which_no_one_can_say_what_it_was_is_not_renamed(
    before: list[str], after: list[str]
) -> None:
    changes = [row[1] for row in differences(table(*before), table(*after))]
    assert sorted(changes) == sorted(["removed"] * len(before) + ["added"] * len(after))


def test_a_copy_that_stays_hides_no_renaming() -> None:
    before, after = ["a 1 x g test", "b 1 x g test"], ["a 1 x g test", "z 1 x g test"]
    assert differences(table(*before), table(*after)) == [("z", "renamed", "b", "z")]


def test_two_rows_that_exchange_their_names_are_changed() -> None:
    after = table("a 2 x g test", "b 1 x g test", "c 3 y h fold0", "d 4 y h fold0")
    assert differences(BEFORE, after) == [("a", "changed", "1", "2"), ("b", "changed", "2", "1")]


def test_a_group_that_only_changes_its_name_is_no_difference() -> None:
    assert differences(BEFORE, BEFORE.with_columns(pl.col("group").replace("g", "k"))) == []


def test_a_group_that_loses_or_gains_other_rows_is_no_difference() -> None:
    after = table("a 1 x k test", "c 3 y h fold0", "d 4 y h fold0", "e 5 y h fold0")
    assert [row[:2] for row in differences(BEFORE, after)] == [("e", "added"), ("b", "removed")]


def test_two_groups_that_become_one_are_told_of_those_that_have_another_name() -> None:
    after = BEFORE.with_columns(group=pl.lit("g"))
    assert differences(BEFORE, after) == [
        ("c", "regrouped", "h", "g"),
        ("d", "regrouped", "h", "g"),
    ]


def test_a_value_that_was_missing_is_a_difference() -> None:
    before = BEFORE.with_columns(label=pl.when(pl.col("key") != "a").then("label"))
    assert differences(before, BEFORE) == [("a", "relabelled", None, "x")]


def test_tables_without_rows_are_compared() -> None:
    assert differences(BEFORE.clear(), BEFORE.clear()) == []
    assert {row[1] for row in differences(BEFORE.clear(), BEFORE)} == {"added"}


def test_a_column_that_one_table_lacks_is_not_compared() -> None:
    after = table("a 1 x g test", "b 2 y g fold1", "e 5 x k test").drop("part")
    assert differences(BEFORE, after) == [
        ("e", "added", None, "x"),
        ("c", "removed", "y", None),
        ("d", "removed", "y", None),
        ("b", "relabelled", "x", "y"),
    ]
