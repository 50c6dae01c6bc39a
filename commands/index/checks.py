"""Checks of an index before it is written: faults that no training survives, and warnings."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from commands.index.files import PICTURES, Files, shown
from commands.index.source import Row
from commands.index.summary import sizes
from mlops.errors import PipelineError
from mlops.files.tables import listed
from mlops.processes.progress import counted
from video.index.rows import Columns, alike_names, read_index
from video.index.table import IndexFileError, read_table

MIN_CLASSES = 2
MIN_GROUPS = 3  # of a class: one for training, one for validation, one for the test

JOIN_FRAMES = "ffmpeg -framerate 25 -i img_%05d.jpg NAME.mp4"


def check_videos(folder: Path, files: Files) -> None:
    """Raise if there is nothing to index, or something that cannot be looked at."""
    faults = list(files.faults)
    if not files.videos and not faults:
        pictures = [path for path, reason in files.ignored.items() if reason in PICTURES]
        if not files.ignored:
            faults.append(
                f"{shown(folder)}: expected videos, found an empty folder; put them there"
            )
        elif pictures:
            faults.append(
                f"{shown(folder)}: expected videos, found {counted(len(pictures), 'picture')}, as "
                f"{listed([shown(path) for path in pictures], 3)}, and no video; if they are "
                f"frames, join those of each video, as {JOIN_FRAMES}"
            )
        else:
            faults += [
                f"{shown(folder / path)}: expected a video, got {reason}; put videos there"
                for path, reason in files.ignored.items()
            ]
    if faults:
        raise PipelineError(*faults)


def repeated(rows: Sequence[Row]) -> tuple[list[Row], list[str], list[str]]:
    """Return the rows without those that say the same again, faults of rows, and warnings.

    Rows of one file are at fault if they say different things, unless each is of another part.
    """
    first: dict[tuple[str, ...], Row] = {}
    faults, warnings = [], []
    for row in rows:
        if not row.label:
            faults.append(f"{row.place}: expected a label, got none; write it or remove the row")
        key = (row.path, row.others.get("start_sec", ""), row.others.get("end_sec", ""))
        other = first.setdefault(key, row)
        if other is row:
            continue
        told = [(one.label, one.split, one.group) for one in (other, row)]
        if told[0] == told[1]:
            warnings.append(f"{row.place}: '{shown(row.path)}' stands there twice; once is kept")
        else:
            names = ("label", "split", "group")
            differing = [
                f"{name} '{one}' and '{two}'"
                for name, one, two in zip(names, *told, strict=True)
                if one != two
            ]
            faults.append(
                f"{row.place}: expected one row for '{shown(row.path)}', got another at "
                f"{other.place} with {', '.join(differing)}; keep the right one"
            )
    return list(first.values()), faults, warnings


def index_faults(place: str, content: bytes) -> list[str]:
    """Return what load_data would refuse in the index, as "nan" for no group."""
    columns = Columns(path="video_path", label="label", group="group")
    try:
        read_index(read_table(content, ["video_path", "label", "group"]), columns)
    except IndexFileError as error:
        return [f"{place}: {fault}" for fault in error.faults]
    return []


def class_faults(folder: Path, index: pl.DataFrame) -> Iterator[str]:
    """Yield what no split of whole groups can do: with one class, or with too few groups of one."""
    found = sizes(index)
    if len(found) < MIN_CLASSES:
        yield (
            f"{shown(folder)}: expected videos of at least {MIN_CLASSES} classes, got "
            f"{counted(index.height, 'video')} of '{next(iter(found))}' alone; add a folder, or "
            "rows, of another class"
        )
    if not unusable_split(index):
        return
    for label, (videos, groups) in found.items():
        if groups < MIN_GROUPS:
            yield (
                f"{shown(folder)}: class '{shown(label)}': expected at least {MIN_GROUPS} groups, "
                f"one each for training, validation and test, got {groups} of "
                f"{counted(videos, 'video')}; add videos of other sources; or, if these are of "
                "different ones, correct their groups or use --group-by none"
            )


def unusable_split(index: pl.DataFrame) -> str:
    """Return why the pipeline cannot follow the split of a source, "" if it can."""
    if "split" not in index.columns:
        return "there is none"
    parts = set(index["split"])
    if "" in parts:
        return f"it is not told for {counted(index.filter(split='').height, 'video')}"
    if missing := [part for part in ("train", "test") if part not in parts]:
        return f"no video is in the part {listed(missing)}"
    told = set(index.select("label", "split").iter_rows())
    lacking = [
        f"{part} has no '{shown(label)}'"
        for label in index["label"].unique().sort()
        for part in sorted(parts)
        if (label, part) not in told
    ]
    return listed(lacking, 3)


def warnings_of(index: pl.DataFrame, num_folds: int) -> Iterator[str]:
    """Yield what to look at before the first training."""
    for names in alike_names(index["label"]):
        yield (
            f"labels {' and '.join(map(repr, names))} differ in case or white space alone and are "
            "two classes; write them alike if they are one"
        )
    reason = unusable_split(index)
    if "split" in index.columns and reason:
        yield (
            f"the split of the source is not followed: {reason}. The pipeline makes its own; to "
            "follow this one, write train or test (and val) into each row of the column split, "
            "every class in each, and set data.split_column: split"
        )
    if not reason:
        yield from _divided_groups(index)
    if reason:
        yield from _few_groups(index, num_folds, test=True)
    elif "val" not in set(index["split"]):
        yield from _few_groups(index.filter(split="train"), num_folds, test=False)
    largest = index.filter(pl.col("group") != "")["group"].value_counts(sort=True).head(1)
    for name, count in largest.iter_rows():
        if 2 * count > index.height:
            yield (
                f"group '{shown(name)}' has {count} of {index.height} videos, which leaves little "
                "to divide; see that they are of one source"
            )


def _divided_groups(index: pl.DataFrame) -> Iterator[str]:
    parts = index.filter(pl.col("group") != "").group_by("group").agg(pl.col("split").n_unique())
    divided = parts.filter(pl.col("split") > 1)["group"].sort().to_list()
    if divided:
        yield (
            f"{counted(len(divided), 'group')} with videos in several parts of the split, as "
            f"{listed([shown(name) for name in divided], 3)}, at which create_splits stops: if "
            "their videos are not of one source, correct the groups; else leave "
            "data.split_column empty, or set split.accept_given_leaks: true"
        )


def _few_groups(index: pl.DataFrame, num_folds: int, *, test: bool) -> Iterator[str]:
    few = [
        (label, groups) for label, (_, groups) in sizes(index).items() if groups < num_folds + test
    ]
    if few:
        fewest = min(groups for _, groups in few)
        yield (
            f"few groups: {'the test set and ' if test else ''}split.num_folds = {num_folds} folds "
            f"take {num_folds + test} of each class, "
            f"{listed([f'{shown(label)} has {groups}' for label, groups in few])}; set "
            f"split.num_folds to {max(fewest - test, 2)}, or add videos"
        )
