"""Summary of an index: counts per class and split, and files that are no videos."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from commands.index.files import shown
from mlops.files.tables import aligned, listed
from mlops.processes.progress import counted

MAX_CLASSES = 40  # of hundreds, as in Kinetics
MAX_REASONS = 12


def sizes(index: pl.DataFrame) -> dict[str, tuple[int, int]]:
    """Return the number of videos and of groups by label; an empty group is one of its own."""
    named = pl.when(pl.col("group") == "").then(pl.col("video_path")).otherwise(pl.col("group"))
    own = pl.col("group") == ""
    counts = index.group_by("label").agg(
        pl.len(), (pl.struct(own, named.alias("name"))).n_unique().alias("groups")
    )
    return {label: (videos, groups) for label, videos, groups in counts.sort("label").iter_rows()}


def print_sizes(index: pl.DataFrame) -> None:
    """Print how many videos and groups each class has, in all or in each split."""
    told = set(index["split"]) if "split" in index.columns else set()
    splits = [name for name in ("train", "val", "test", "") if name in told]
    parts = {f"{name or 'none'} ": index.filter(split=name) for name in splits} or {"": index}
    header = ["class", *(f"{part}{noun}" for part in parts for noun in ("videos", "groups"))]
    of_parts = [sizes(part) for part in parts.values()]
    labels = index["label"].unique().sort().to_list()
    rows = [
        [shown(label), *(f"{n:,}" for found in of_parts for n in found.get(label, (0, 0)))]
        for label in labels
    ]
    print(aligned(header, rows[:MAX_CLASSES], numbers=set(header[1:])))
    if len(rows) > MAX_CLASSES:
        print(f"and {len(rows) - MAX_CLASSES} more classes")


def print_ignored(ignored: Mapping[str, str], table: Path) -> None:
    """Print the files that are left out, by reason; all of them are in the table."""
    by_reason: defaultdict[str, list[str]] = defaultdict(list)
    for path, reason in ignored.items():
        by_reason[reason].append(shown(path))
    print(f"\n{counted(len(ignored), 'file')} left out, see {table}:")
    reasons = sorted(by_reason, key=lambda reason: -len(by_reason[reason]))
    for reason in reasons[:MAX_REASONS]:
        print(f"  {reason}: {listed(by_reason[reason], 3)}")
    if len(reasons) > MAX_REASONS:
        print(f"  and {len(reasons) - MAX_REASONS} other reasons")
