"""Nothing that two splits share gets past the gate, and nothing that cannot be judged."""

import polars as pl
import pytest

from video.leakage import LeakageError, check_disjoint

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
