"""Splits into training, validation and test by whole groups, so that no copy leaks.

Every video outside the test set lies in one of k folds. The cell of fold k validates on that
fold and trains on the others; `split` holds the roles in the cell of fold 0.

A split should not change when videos are added or removed, and should be close to its shares; and
it must follow from the videos and the parameters alone, because DVC's cache and a fresh clone know
no earlier state. Dealing groups one by one to the emptiest part is close, but one new video can
move all groups after it. So the part of a group is a hash of (`rebalance`, name of the group),
compared with the shares: it does not depend on the rest of the table. Its closeness is random, and
therefore searched: of some thousand integers `rebalance`, the best for a table is about as close as
dealing (40 groups of 6 videos into 6 parts: 2 to 3 % of a class too many or too few in the worst
part).

- `rebalance: 412`: new videos move no others. Drift is reported, beside the integer that would be
  best now; to write that one into params.yaml is the explicit request to move groups.
- `rebalance: auto`: the best of `num_trials(...)` integers for this table, a good first split. It
  is as unstable as dealing: write the number that the stage prints into params.yaml before
  comparing with a later state of the data.

The test set does not depend on `num_folds`, and a larger `test_share` takes groups from the folds
and gives none back. The pipeline's seed is not in the hash, so that runs with other seeds are
measured on the same videos.

Joined groups have the smallest name of those given, and so its part: a link found later moves the
groups with the larger names there, and nothing else. A video without a group has the name of its
content, which sorts after all given names, so it moves to what it is linked to. When all videos
that carry the smallest name are removed, the rest of that joined group takes the next name.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

SPLITS_VERSION = 3  # part of every hash

TRAIN, VAL, TEST = "train", "val", "test"

# Integers tried: more for few groups, which are hard to divide and cheap to try.
_GROUP_TRIALS = 3_000_000
_MAX_TRIALS = 65_536
_MIN_TRIALS = 1_000
_TRIALS_AT_ONCE = 200_000  # times groups: bounds the memory

Words = NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """The distance of the worst part of a class from its share, in shares of the class's videos.

    `bound` is a lower bound over all splits of these groups: for each part by itself, the closest
    that any set of whole groups comes to its share, and for the largest group, its excess over the
    largest part. All parts together may be further off.
    """

    name: str
    videos: int
    worst: float
    part: int  # 0 is test, 1 is fold 0
    bound: float


def class_names(table: pl.DataFrame) -> list[str]:
    """Return the classes in the order of the model's outputs, from the type of the label column."""
    labels = table.schema["label"]
    if not isinstance(labels, pl.Enum):
        raise ValueError(f"expected a label column of type Enum, got {labels}; run load_data again")
    return labels.categories.to_list()


def assign_splits(
    videos: pl.DataFrame, *, test_share: float, num_folds: int, rebalance: int
) -> pl.DataFrame:
    """Add `split` and `fold` (null for test videos) to `videos` (`group` not null).

    The part of a row depends on the name of its group and the parameters, on no other row.
    """
    names = videos["group"].unique().sort().to_list()
    integers = np.array([rebalance], np.uint64)
    parts = _parts(_name_hashes(names), integers, test_share, num_folds)[0]
    part_of = dict(zip(names, parts.tolist(), strict=True))
    part = pl.Series("part", [part_of[group] for group in videos["group"]], dtype=pl.Int64)
    fold = pl.when(part > 0).then(part - 1)
    return videos.with_columns(split_in_fold(fold, 0).alias("split"), fold.alias("fold"))


def split_in_fold(fold: pl.Expr, cell: int) -> pl.Expr:
    """Return the role of a video of fold `fold` in the training cell `cell`."""
    return (
        pl.when(fold.is_null())
        .then(pl.lit(TEST))
        .when(fold == cell)
        .then(pl.lit(VAL))
        .otherwise(pl.lit(TRAIN))
    )


def num_trials(num_groups: int) -> int:
    """Return how many integers `best_rebalance` tries, from 0 on."""
    return min(_MAX_TRIALS, max(_MIN_TRIALS, _GROUP_TRIALS // max(1, num_groups)))


def best_rebalance(
    videos: pl.DataFrame,
    *,
    test_share: float,
    num_folds: int,
    stratify: Sequence[str] = (),
) -> int:
    """Return the integer whose split of `videos` (`group`, `label`, `stratify`) fits best.

    The criteria are first the number of labels missing in parts, then the sum over parts and
    classes of the squared deviation divided by the expected number, so that small classes do not
    dominate.
    Classes are the labels and the pairs of a label and a value of one column of `stratify`. The
    smallest of equals. Time: 1 to 3 s for up to some thousand groups.
    """
    names, _, sizes = _class_sizes(videos, stratify)
    num_labels = videos["label"].n_unique()
    expected = np.outer(_shares(test_share, num_folds), sizes.sum(axis=0))
    hashes = _name_hashes(names)
    trials, at_once = num_trials(len(names)), max(1, _TRIALS_AT_ONCE // len(names))
    best = (np.inf, np.inf, -1)
    for start in range(0, trials, at_once):
        tried = np.arange(start, min(start + at_once, trials), dtype=np.uint64)
        counts = _counts(_parts(hashes, tried, test_share, num_folds), sizes, len(expected))
        empty = (counts[:, :, :num_labels] == 0).sum(axis=(1, 2))
        # Rounded, so that the order in which a machine adds cannot decide between equals.
        # Without a test share, the test part is empty, and adds nothing.
        strays = np.round(((counts - expected) ** 2 / np.maximum(expected, 1e-9)).sum((1, 2)), 6)
        first = int(np.lexsort((strays, empty))[0])
        best = min(best, (float(empty[first]), float(strays[first]), start + first))
    return best[2]


def deviations(
    splits: pl.DataFrame, *, test_share: float, num_folds: int, stratify: Sequence[str] = ()
) -> list[Deviation]:
    """Return the deviation by class of `splits` (`group, label, fold`, `stratify`).

    Labels come first, then the pairs of a label and a value of a column of `stratify`.
    """
    names, classes, sizes = _class_sizes(splits, stratify)
    shares = _shares(test_share, num_folds)
    part_of = dict(splits.select("group", pl.col("fold").fill_null(-1) + 1).iter_rows())
    parts = np.array([[part_of[name] for name in names]])
    counts = _counts(parts, sizes, len(shares))[0]
    totals = sizes.sum(axis=0)
    off = np.abs(counts / totals - np.array(shares)[:, None])
    return [
        Deviation(
            name=name,
            videos=int(totals[column]),
            worst=float(off[:, column].max()),
            part=int(off[:, column].argmax()),
            bound=_bound(sizes[:, column].tolist(), shares),
        )
        for column, name in enumerate(classes)
    ]


def _class_sizes(
    videos: pl.DataFrame, stratify: Sequence[str]
) -> tuple[list[str], list[str], NDArray[np.int64]]:
    """Return the names of the groups and classes, and the number of videos in each pair.

    The sizes have the shape (groups, classes); labels come first, in order of their names.
    """
    names = videos["group"].unique().sort().to_list()
    row_of = {name: row for row, name in enumerate(names)}
    column_of: dict[str, int] = {}
    rows, columns = [], []
    for values in _class_columns(videos, stratify):
        for name in sorted(set(values)):
            column_of.setdefault(name, len(column_of))
        rows += [row_of[group] for group in videos["group"]]
        columns += [column_of[name] for name in values]
    sizes = np.zeros((len(names), len(column_of)), np.int64)
    np.add.at(sizes, (rows, columns), 1)
    return names, list(column_of), sizes


def _class_columns(videos: pl.DataFrame, stratify: Sequence[str]) -> Iterator[list[str]]:
    labels = videos["label"].cast(pl.String).to_list()
    yield [str(label) for label in labels]
    for column in stratify:
        values = videos[column].cast(pl.String).fill_null("").to_list()
        yield [
            f"{label}, {column} {value or '(none)'}"
            for label, value in zip(labels, values, strict=True)
        ]


def _shares(test_share: float, num_folds: int) -> list[float]:
    """Return the share of each part: test, then the folds, which share the rest equally."""
    return [test_share] + [(1.0 - test_share) / num_folds] * num_folds


def _name_hashes(names: Sequence[str]) -> Words:
    keys = [f"{SPLITS_VERSION}|{name}".encode() for name in names]
    return np.array(
        [int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") for key in keys],
        np.uint64,
    )


def _parts(hashes: Words, rebalance: Words, test_share: float, num_folds: int) -> NDArray[np.int64]:
    """Return the part (0: test) of every group for every rebalance; shape (rebalance, groups)."""
    # The finaliser of splitmix64: every bit of the sum changes every bit of the result.
    mixed = hashes[None, :] + rebalance[:, None] * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed = mixed ^ (mixed >> np.uint64(31))
    # The upper half decides on test, the lower one on the fold, so that neither moves the other.
    high, low = mixed >> np.uint64(32), mixed & np.uint64(0xFFFFFFFF)
    folds = (low * np.uint64(num_folds)) >> np.uint64(32)
    is_test = high < np.uint64(round(test_share * 2**32))
    return cast(NDArray[np.int64], np.where(is_test, np.uint64(0), folds + np.uint64(1))).astype(
        np.int64
    )


def _counts(
    parts: NDArray[np.int64], sizes: NDArray[np.int64], num_parts: int
) -> NDArray[np.float64]:
    """Count the videos in every part of every class; shape (trials, parts, classes)."""
    weights = sizes.astype(np.float64)
    return np.stack([(parts == part).astype(np.float64) @ weights for part in range(num_parts)], 1)


def _bound(sizes: Sequence[int], shares: Sequence[float]) -> float:
    total = sum(sizes)
    reachable = 1  # bit n: some set of groups has n videos
    for size in sizes:
        reachable |= reachable << size
    numbers = np.flatnonzero([digit == "1" for digit in reversed(f"{reachable:b}")])
    closest = max(float(np.abs(numbers / total - share).min()) for share in shares)
    return max(closest, max(sizes) / total - max(shares))
