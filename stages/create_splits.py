"""Splits: copies joined into groups, and whole groups divided into test and folds.

Links that the index does not know go to data/duplicates.csv, for a person to check.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypedDict

import polars as pl
from ruamel.yaml import YAML

from mlops.errors import PipelineError, grouped
from mlops.files import atomic
from mlops.files.tables import listed
from mlops.files.yaml_text import load_yaml
from mlops.inputs import StageInputs
from mlops.processes.progress import counted
from mlops.stage import run_stage
from stages.params import Split, read_params
from stages.paths import DUPLICATES, REBALANCE, SPLITS, VIDEOS
from video.splitting.duplicates import AS_IT_IS, Pair, near_duplicates
from video.splitting.given import (
    ALWAYS_TRAINS,
    GIVEN,
    assign_given,
    divided_groups,
    free_videos,
    gives_validation,
)
from video.splitting.groups import effective_groups
from video.splitting.splits import Deviation, assign_splits, best_rebalance, class_names, deviations

# A group above it leaves little to divide, and is mostly made by a chain of doubtful links.
LARGE_GROUP_SHARE = 0.5

MAX_PAIRS_SHOWN = 3

NOT_COMPARED = "not compared"

REBALANCE_HEAD = """\
# The numbers that `split.rebalance: auto` stands for, by data.index: each is the best one for the
# videos of the first split. Remove a line to choose anew, which moves videos between the parts.
"""


class Shares(TypedDict):
    """The sizes of the parts that hashes divide videos into."""

    test_share: float
    num_folds: int


def main(inputs: StageInputs) -> None:
    params = read_params()
    videos = pl.read_parquet(VIDEOS)
    check_columns(videos, params.split.stratify)
    pairs = find_near_duplicates(videos, params.split.near_duplicate_distance)
    links = [(pair.first, pair.second) for pair in pairs]
    given = videos.with_columns(group="linked_group")
    groups = pl.Series(effective_groups(given, links), dtype=pl.String)
    duplicates = duplicates_table(videos, pairs)
    videos = videos.with_columns(group=groups)
    report_groups(given, videos)
    report_uncompared(duplicates)
    inputs.check()
    atomic.write_text(DUPLICATES, duplicates.write_csv(float_precision=4))
    check_joined(given, videos, duplicates)
    if GIVEN in videos.columns:
        check_given(videos, duplicates, accept=params.split.accept_given_leaks)
    kept = read_rebalances()
    shares = shares_of(videos, params.split)
    best = find_best(free_videos(videos), shares, params.split.stratify)
    chosen = params.split.rebalance
    if chosen == "auto":
        chosen = kept.get(params.data.index, best)
    splits = divide(videos, shares, chosen)
    check_classes(splits, params.split.num_folds, chosen, best)
    inputs.check()
    with atomic.replacing(SPLITS) as path:
        splits.select("video_path", "sha256", "label", "group", "split", "fold").write_parquet(path)
    report_parts(splits)
    if not free_videos(splits).is_empty():
        closest = divide(videos, shares, best)
        report_deviations(deviations_of(splits, shares, params.split.stratify))
        report_rebalance(splits, closest, shares, params.split.stratify, best)
        if params.split.rebalance == "auto":
            kept = keep_rebalance(kept, params.data.index, best)
    write_rebalances(kept)


def check_columns(videos: pl.DataFrame, stratify: Sequence[str]) -> None:
    faults = [
        f"params.yaml: split.stratify: expected columns of {VIDEOS}, got '{name}'; choose of "
        f"{', '.join(videos.columns)}"
        for name in stratify
        if name not in videos.columns
    ]
    if faults:
        raise PipelineError(*faults)


def find_near_duplicates(videos: pl.DataFrame, distance: float) -> list[Pair]:
    """Find pairs of near-duplicates; none with a distance of 0, which disables the search."""
    if distance == 0.0:
        return []
    compared = videos.with_row_index("position")
    if "file_sha256" in videos.columns:
        # One segment for each file: all of a file have its fingerprint, and are in one group.
        compared = compared.unique("file_sha256", keep="first", maintain_order=True)
    position = compared["position"].to_list()
    return [
        replace(pair, first=position[pair.first], second=position[pair.second])
        for pair in near_duplicates(compared["fingerprint"].to_numpy(), max_distance=distance)
    ]


def duplicates_table(videos: pl.DataFrame, near: Sequence[Pair]) -> pl.DataFrame:
    """Return the links between videos that the index does not name as one group, closest first.

    Behind them stand the videos that could not be compared, one row each.
    """
    columns = ("video_path", "label", "group", "sha256")
    rows = list(videos.select(columns).iter_rows())
    first_of: dict[str, int] = {}
    found = []
    # A copy is linked to the first of its kind: n copies are n - 1 lines.
    for position, row in enumerate(rows):
        first = first_of.setdefault(row[3], position)
        if first != position:
            found.append(("exact", 0.0, AS_IT_IS, first, position))
    found += [("near", pair.distance, pair.shown, pair.first, pair.second) for pair in near]
    links = [
        (
            (kind, distance, shown),
            *(value for pair in zip(one[:3], other[:3], strict=True) for value in pair),
        )
        for kind, distance, shown, first, second in found
        for one, other in [sorted((rows[first], rows[second]), key=lambda row: str(row[0]))]
        if (one[2] is None or one[2] != other[2]) and (kind == "exact" or one[3] != other[3])
    ]
    alone = [
        ((NOT_COMPARED, None, None), path, None, label, None, group, None)
        for path, label, group in videos.filter(pl.col("fingerprint").list.len() == 0)
        .select("video_path", "label", "group")
        .iter_rows()
    ]
    table = pl.DataFrame(
        [(*link, *names) for link, *names in links + alone],
        schema={"kind": pl.String, "distance": pl.Float64, "shown": pl.String}
        | {
            name: pl.String
            for column in ("video_path", "label", "group")
            for name in (column, f"other_{column}")
        },
        orient="row",
    ).sort("kind", "distance", "video_path", "other_video_path")
    counts = dict(table["kind"].value_counts().iter_rows())
    other_labels = table.filter(pl.col("label") != pl.col("other_label")).height
    print(
        f"create_splits: {counts.get('exact', 0)} copies and {counts.get('near', 0)} pairs of "
        f"near-duplicates that the index does not name, {other_labels} of them with different "
        f"labels: {DUPLICATES}"
    )
    return table


def report_groups(given: pl.DataFrame, videos: pl.DataFrame) -> None:
    name, size = largest_group(given["group"])
    if size > LARGE_GROUP_SHARE * given.height:
        print(
            f"create_splits: warning: group '{name}' of the index has {size} of {given.height} "
            "videos, which leaves little to divide; leave the field empty for videos of no group"
        )
    groups = videos.group_by("group").agg(pl.len().alias("videos"), pl.col("label").n_unique())
    mixed = groups.filter(pl.col("label") > 1)
    print(
        f"create_splits: {groups.height} groups, {mixed.height} of them with more than one label "
        f"({mixed['videos'].sum()} videos)"
    )


def report_uncompared(duplicates: pl.DataFrame) -> None:
    names = duplicates.filter(kind=NOT_COMPARED)["video_path"].to_list()
    if names:
        print(
            f"create_splits: warning: {counted(len(names), 'video')} without contrast could not be "
            f"compared with others: {listed(names)}; see {DUPLICATES}, and name their groups in "
            "the index if some show the same"
        )


def check_joined(given: pl.DataFrame, joined: pl.DataFrame, duplicates: pl.DataFrame) -> None:
    """Refuse links that make most of the videos one group: most of them must be false."""
    name, size = largest_group(joined["group"])
    _, given_size = largest_group(given["group"])
    if size <= max(LARGE_GROUP_SHARE * joined.height, given_size):
        return
    near = duplicates.filter(kind="near").head(MAX_PAIRS_SHOWN)
    pairs = "; ".join(
        f"'{one}' and '{other}' at {distance:.3f}"
        for one, other, distance in near.select(
            "video_path", "other_video_path", "distance"
        ).iter_rows()
    )
    raise PipelineError(
        f"group '{name}': expected at most {LARGE_GROUP_SHARE:.0%} of the videos in one group, got "
        f"{size} of {joined.height}, joined by videos that look alike, the closest {pairs}; look "
        f"at the pairs in {DUPLICATES}: if they do not show the same, lower "
        "split.near_duplicate_distance (0 joins exact copies only)"
    )


def largest_group(groups: pl.Series) -> tuple[str | None, int]:
    """Return name and size of the largest group; a video without a group is one of its own."""
    sizes = groups.drop_nulls().value_counts().sort(["count", "group"], descending=[True, False])
    return sizes.row(0) if sizes.height else (None, 1)


def check_given(videos: pl.DataFrame, duplicates: pl.DataFrame, *, accept: bool) -> None:
    """Refuse given parts that share content, or warn of them."""
    divided = divided_groups(videos, GIVEN)
    if divided.is_empty():
        return
    part_of = dict(videos.select("video_path", GIVEN).iter_rows())
    columns = ("video_path", "other_video_path", "distance")
    pairs = duplicates.filter(pl.col("kind") != NOT_COMPARED).sort("distance").select(columns)
    faults = [
        f"'{one}' ({part_of[one]}) and '{other}' ({part_of[other]}) show the same, at a distance "
        f"of {distance:.3f}"
        for one, other, distance in pairs.iter_rows()
        if part_of[one] != part_of[other]
    ]
    faults += [
        f"group '{group}': its {size} videos are in {' and '.join(parts)}"
        for group, size, parts in divided.iter_rows()
    ]
    if not accept:
        raise PipelineError(
            f"expected given parts that share nothing, got {counted(divided.height, 'group')} in "
            "several parts; give each group one part, leave data.split_column empty, or accept "
            "a score that is too good: split.accept_given_leaks: true",
            *grouped(faults),
        )
    for line in grouped(f"warning: {fault}" for fault in faults):
        print(f"create_splits: {line}")


def shares_of(videos: pl.DataFrame, split: Split) -> Shares:
    test_share = 0.0 if GIVEN in videos.columns else split.test_share
    return {"test_share": test_share, "num_folds": split.num_folds}


def find_best(free: pl.DataFrame, shares: Shares, stratify: Sequence[str]) -> int:
    return best_rebalance(free, **shares, stratify=stratify) if free.height else 0


def divide(videos: pl.DataFrame, shares: Shares, rebalance: int) -> pl.DataFrame:
    if GIVEN in videos.columns:
        return assign_given(videos, num_folds=shares["num_folds"], rebalance=rebalance)
    return assign_splits(videos, **shares, rebalance=rebalance)


def read_rebalances() -> dict[str, int]:
    """Return the numbers that `auto` stands for, by index."""
    kept = load_yaml(REBALANCE) if REBALANCE.exists() else None
    kept = {} if kept is None else kept
    if not isinstance(kept, dict) or not all(
        isinstance(name, str) and type(number) is int and number >= 0
        for name, number in kept.items()
    ):
        raise PipelineError(
            f"{REBALANCE}: expected lines as in data/mine/index.csv: 412, got {kept!r}; mend them, "
            "or remove the file to choose anew"
        )
    return kept


def write_rebalances(kept: Mapping[str, int]) -> None:
    lines = io.StringIO()
    YAML().dump(dict(sorted(kept.items())), lines)
    atomic.write_text(REBALANCE, REBALANCE_HEAD + lines.getvalue() * bool(kept))


def check_classes(splits: pl.DataFrame, num_folds: int, chosen: int, best: int) -> None:
    """Raise if a part lacks a class: it can neither be trained on nor scored."""
    found = set(splits.select("fold", "label").iter_rows())
    if GIVEN in splits.columns and gives_validation(splits):
        parts, remedy = (None, 0, ALWAYS_TRAINS), "give some of its videos this part"
    else:
        advice = "" if chosen == best else f"set split.rebalance to {best}, "
        parts = (None, *range(num_folds))
        remedy = f"there are too few groups with it: {advice}add videos or lower split.num_folds"
    faults = [
        f"{part_name(fold)}: expected videos of every class, got none of '{label}'; {remedy}"
        for fold in parts
        for label in class_names(splits)
        if (fold, label) not in found
    ]
    if faults:
        raise PipelineError(*faults)


def part_name(fold: int | None) -> str:
    return {None: "test", ALWAYS_TRAINS: "train"}.get(fold, f"fold {fold}")


def report_parts(splits: pl.DataFrame) -> None:
    parts = splits.group_by("fold").agg(
        pl.len().alias("videos"),
        pl.col("group").n_unique().alias("groups"),
        *((pl.col("label") == label).sum().alias(label) for label in class_names(splits)),
    )
    for row in parts.sort("fold").iter_rows(named=True):
        fold = row.pop("fold")
        counts = ", ".join(f"{number} {name}" for name, number in row.items())
        print(f"create_splits: {part_name(fold)}: {counts}")


def deviations_of(splits: pl.DataFrame, shares: Shares, stratify: Sequence[str]) -> list[Deviation]:
    return deviations(free_videos(splits), **shares, stratify=stratify)


def report_deviations(found: Sequence[Deviation]) -> None:
    for item in found:
        part = part_name(item.part - 1 if item.part else None)
        print(
            f"create_splits: {item.name}: {item.worst:.1%} of its {item.videos} videos too many or "
            f"too few in {part}; whole groups allow no less than {item.bound:.1%}"
        )


def report_rebalance(
    splits: pl.DataFrame,
    closest: pl.DataFrame,
    shares: Shares,
    stratify: Sequence[str],
    best: int,
) -> None:
    present, possible = (
        max(item.worst for item in deviations_of(table, shares, stratify))
        for table in (splits, closest)
    )
    if possible < present:
        print(
            f"create_splits: rebalance {best} would bring the largest deviation from {present:.1%} "
            f"to {possible:.1%}, and move {(splits['fold'].ne_missing(closest['fold'])).sum()} of "
            f"{splits.height} videos; write it to split.rebalance or {REBALANCE}"
        )


def keep_rebalance(kept: Mapping[str, int], index: str, best: int) -> dict[str, int]:
    """Return the numbers with one for the index, which is chosen once."""
    if index not in kept:
        print(
            f"create_splits: split.rebalance auto is {best} for {index} from now on: videos that "
            f"come or go will move no others; kept in {REBALANCE}, which belongs in git"
        )
    return {index: best} | dict(kept)


if __name__ == "__main__":
    run_stage("create_splits", main)
