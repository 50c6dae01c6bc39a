"""Which video is for training, validation or test: whole groups only, so that no copy leaks.

Every video outside the test set lies in one of k folds. The cell of fold k validates on that
fold and trains on the others; `split` tells the roles in the cell of fold 0.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import polars as pl

TRAIN, VAL, TEST = "train", "val", "test"


def class_names(table: pl.DataFrame) -> list[str]:
    """The classes in the order of the model's outputs, from the type of the label column."""
    labels = table.schema["label"]
    if not isinstance(labels, pl.Enum):
        raise ValueError(f"expected a label column of type Enum, got {labels}; run load_data again")
    return labels.categories.to_list()


def effective_groups(videos: pl.DataFrame) -> list[str]:
    """The group of every row of `videos` (`sha256, group`), with what belongs together joined.

    The same bytes under two group names join the two groups; a video without a group is one of
    its own. The joined group takes the smallest of its names, whatever the order of the rows.
    """
    parent: dict[str, str] = {}

    def find(item: str) -> str:
        while parent.setdefault(item, item) != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    contents = [f"video:{sha256[:16]}" for sha256 in videos["sha256"]]
    names = [
        content if group is None else f"group:{group}"
        for content, group in zip(contents, videos["group"], strict=True)
    ]
    for content, name in zip(contents, names, strict=True):
        # The smaller name becomes the root; "group:" sorts before "video:".
        low, high = sorted((find(content), find(name)))
        parent[high] = low
    return [find(name).removeprefix("group:") for name in names]


def assign_splits(
    videos: pl.DataFrame, *, test_share: float, num_folds: int, seed: int
) -> pl.DataFrame:
    """Add `split` and `fold` (null for test videos) to `videos` (`group` not null, `label`).

    Groups are dealt one by one to the part (test, fold 0, … fold k-1) that comes closest to its
    share of every class; large groups first, since the small ones even out what they leave.
    The result depends on the groups' names, sizes and labels and the seed, not on row order.
    """
    sizes: dict[str, Counter[str]] = defaultdict(Counter)
    for group, label in videos.select("group", "label").iter_rows():
        sizes[group][label] += 1
    fold_share = (1.0 - test_share) / num_folds
    part_of = _deal(sizes, [test_share] + [fold_share] * num_folds, seed)
    parts = pl.Series("part", [part_of[group] for group in videos["group"]], dtype=pl.Int64)
    fold = pl.when(parts > 0).then(parts - 1)
    return videos.with_columns(split_in_fold(fold, 0).alias("split"), fold.alias("fold"))


def split_in_fold(fold: pl.Expr, cell: int) -> pl.Expr:
    """The role of a video whose fold is `fold` in the training cell `cell`."""
    return (
        pl.when(fold.is_null())
        .then(pl.lit(TEST))
        .when(fold == cell)
        .then(pl.lit(VAL))
        .otherwise(pl.lit(TRAIN))
    )


def _deal(sizes: Mapping[str, Counter[str]], shares: Sequence[float], seed: int) -> dict[str, int]:
    totals = sum(sizes.values(), Counter[str]())
    dealt: list[Counter[str]] = [Counter() for _ in shares]
    part_of: dict[str, int] = {}
    for group in sorted(sizes, key=lambda name: _dealing_order(sizes[name], name, seed)):

        def excess(part: int, group: str = group) -> tuple[float, int]:
            return _excess(dealt[part] + sizes[group], totals, shares[part]) - _excess(
                dealt[part], totals, shares[part]
            ), part

        part_of[group] = min((part for part, share in enumerate(shares) if share > 0), key=excess)
        dealt[part_of[group]] += sizes[group]
    return part_of


def _dealing_order(size: Counter[str], group: str, seed: int) -> tuple[int, str]:
    # Sizes within a factor of two count as equal, so that the seed has something to shuffle.
    key = hashlib.blake2b(f"{seed}|{group}".encode(), digest_size=16).hexdigest()
    return -size.total().bit_length(), key


def _excess(dealt: Counter[str], totals: Counter[str], share: float) -> float:
    """How far a part is from its share, as the sum over classes of squared relative deviations.

    Weighted by the share, so that one video too many weighs the same in a small part and in a
    large one.
    """
    return share * sum(
        (dealt[label] / (total * share) - 1.0) ** 2 for label, total in sorted(totals.items())
    )
