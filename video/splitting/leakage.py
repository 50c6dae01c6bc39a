"""Checks for leakage: nothing of a validation or test video may reach training.

They examine the tables of the loaders, not the splits that these were made from, and fail closed:
a table without groups or fingerprints cannot pass, nor can splits that do not list every clip
exactly once.
"""

import itertools
from collections.abc import Iterable

import polars as pl

from video.splitting.duplicates import near_duplicates

IDENTITIES = ("group", "sha256", "clip_sha256")

AUGMENT_AGAIN = "run generate_augmentations again"


class LeakageError(ValueError):
    """Two splits share content; the message names the first pair of every kind."""


def check_splits(splits: pl.DataFrame, clips: pl.DataFrame) -> None:
    """Raise `LeakageError` unless the splits list the video of each clip once, and no others.

    `splits` has `video_path, sha256, group, fold` (null for test), `clips` the first three.
    """
    faults = _missing("splits", splits, ("video_path", "sha256", "group", "fold"))
    faults += _missing("clips", clips, ("video_path", "sha256", "group"))
    if not faults:
        faults += _dealt_twice(splits)
        faults += _unmatched("clips", clips, "splits", splits)
        faults += _unmatched("splits", splits, "clips", clips)
    if faults:
        raise LeakageError("\n".join(faults))


def check_copies(copies: pl.DataFrame, splits: pl.DataFrame) -> None:
    """Raise `LeakageError` unless the augmented copies are of videos that train in some cell.

    These are the videos outside the test set: either all of them have copies, or none. Otherwise
    the copies were made for other splits.
    """
    faults = _missing("augmented copies", copies, ("video_path", "sha256", "group"))
    if not faults:
        faults += _unmatched("augmented copies", copies, "splits", splits)
        copied = splits.join(copies, on="video_path", how="semi", maintain_order="left")
        without = splits.join(copies, on="video_path", how="anti", maintain_order="left")
        tested = copied.filter(pl.col("fold").is_null())
        if not tested.is_empty():
            faults.append(
                f"augmented copies: expected none of a test video, got those of "
                f"'{tested['video_path'][0]}'; {AUGMENT_AGAIN}"
            )
        lacking = without.filter(pl.col("fold").is_not_null())
        if not copies.is_empty() and not lacking.is_empty():
            faults.append(
                f"augmented copies: expected those of all videos of the folds or of none, got none "
                f"of '{lacking['video_path'][0]}' in fold {lacking['fold'][0]}; {AUGMENT_AGAIN}"
            )
    if faults:
        raise LeakageError("\n".join(faults))


def check_disjoint(parts: dict[str, pl.DataFrame]) -> None:
    """Raise `LeakageError` if two of the parts share a group, a video or a clip's bytes.

    `parts` maps a split's name to its table of clips with `video_path` and IDENTITIES; `sha256` is
    that of the video which a clip, augmented or not, was made of.
    """
    faults: list[str] = []
    names = sorted(parts)
    for name in names:
        for column in IDENTITIES:
            if column not in parts[name].columns:
                faults.append(f"{name}: expected a column {column}, without it nothing is proven")
            elif parts[name][column].null_count():
                faults.append(f"{name}: expected a {column} in every row, got empty ones")
    if not faults:
        for first, second in itertools.combinations(names, 2):
            faults += _shared(first, parts[first], second, parts[second])
    if faults:
        raise LeakageError("\n".join(faults))


def check_pictures(parts: dict[str, pl.DataFrame], *, max_distance: float) -> None:
    """Raise `LeakageError` if two of the parts show the same footage, whatever its bytes and names.

    `parts` maps a split's name to its table of clips with `video_path` and `fingerprint`;
    `max_distance` is the distance up to which `create_splits` joins videos, 0 if it joins none.
    """
    faults = [fault for name in parts for fault in _missing(name, parts[name], ("fingerprint",))]
    if faults:
        raise LeakageError("\n".join(faults))
    if max_distance == 0 or len(parts) < 2:
        return
    table = pl.concat(
        parts[name]
        .unique("video_path", maintain_order=True)  # of several clips
        .select(pl.lit(name).alias("part"), "video_path", "fingerprint")
        for name in sorted(parts)
    )
    rows = table.select("part", "video_path").rows()
    pairs = near_duplicates(table["fingerprint"].to_numpy(), max_distance=max_distance)
    apart = [pair for pair in pairs if rows[pair.first][0] != rows[pair.second][0]]
    if apart:
        closest = min(apart, key=lambda pair: pair.distance)
        (first, one), (second, other) = rows[closest.first], rows[closest.second]
        raise LeakageError(
            f"{first} and {second} show the same pictures: '{one}' and '{other}', at a distance of "
            f"{closest.distance:.3f}; run create_splits again"
        )


def _shared(
    first: str, first_table: pl.DataFrame, second: str, second_table: pl.DataFrame
) -> Iterable[str]:
    for column in IDENTITIES:
        pair = first_table.join(second_table, on=column, how="inner").head(1)
        if not pair.is_empty():
            row = pair.row(0, named=True)
            yield (
                f"{first} and {second} share the {column} {row[column]}: '{row['video_path']}' and "
                f"'{row['video_path_right']}'; run create_splits again"
            )


def _missing(name: str, table: pl.DataFrame, columns: Iterable[str]) -> list[str]:
    return [
        f"{name}: expected a column {column}, without it nothing is proven; run the data stages "
        "again"
        for column in columns
        if column not in table.columns
    ]


def _dealt_twice(splits: pl.DataFrame) -> Iterable[str]:
    for (path,), rows in splits.group_by("video_path", maintain_order=True):
        if rows.height > 1:
            parts = ["test" if fold is None else f"fold {fold}" for fold in rows["fold"]]
            yield (
                f"splits: expected every video once, got '{path}' in {' and in '.join(parts)}; "
                "run create_splits again"
            )
            return


def _unmatched(
    name: str, table: pl.DataFrame, other_name: str, other: pl.DataFrame
) -> Iterable[str]:
    lost = table.join(other, on=["video_path", "sha256"], how="anti", maintain_order="left")
    if not lost.is_empty():
        path, sha256 = lost.select("video_path", "sha256").row(0)
        known = other.filter(pl.col("video_path") == path)["sha256"].head(1).to_list()
        holders = other.filter(pl.col("sha256") == sha256)["video_path"].head(1).to_list()
        found = f"'{path}' with content {known[0]}" if known else f"no '{path}'"
        if holders:
            found += f", and that content as '{holders[0]}'"
        yield (
            f"{name}: expected videos that the {other_name} have too, got '{path}' with content "
            f"{sha256}; the {other_name} have {found}; run the data stages again"
        )
