"""Versions of the data: all of them, those that a run used, and what differs between two."""

import re
from typing import Any

import click
import polars as pl

from commands import as_json, asks_group_itself
from mlops.files.tables import aligned, size
from mlops.lineage import DataVersionManager, how_to_fetch
from mlops.processes.progress import counted
from mlops.recorded.dvc_yaml import data_tables

DIGITS = 8  # of a hash


@click.group(invoke_without_command=True, help=__doc__)
@as_json
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    if asks_group_itself(context):
        print_versions(DataVersionManager().versions(), as_json=as_json)


@command.command()
@click.argument("run")
@as_json
def used(run: str, as_json: bool) -> None:
    """List the versions of the data that a run was trained on.

    RUN is its id, or its directory below runs/.
    """
    print_versions(DataVersionManager().used_by(run), as_json=as_json)


@command.command()
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@click.option("--max-rows", default=40, metavar="N", help="Rows to show at most.  [40]")
@as_json
def diff(before: str, after: str, max_rows: int, as_json: bool) -> None:
    """Compare two versions of the data, video by video.

    A and B are each a revision of git, an experiment's name, 'workspace', or the first digits of a
    content hash.
    """
    manager = DataVersionManager()
    table = manager.diff(before, after)
    if as_json:
        print(table.write_json())
        return
    rows = [
        [data, first[:DIGITS], "the same" if first == second else second[:DIGITS]]
        for data, first, second in manager.compare(before, after).iter_rows()
    ]
    print(aligned(["data", "A", "B"], rows))
    print_differences(table, max_rows)


def print_versions(table: pl.DataFrame, *, as_json: bool) -> None:
    if as_json:
        print(table.write_json())
        return
    header = ["", "version", "first in", "date", "config", "videos", "clips", "size", "classes"]
    rows = [
        [
            "*" if row["workspace"] else "",
            row["content_hash"][:DIGITS],
            first_in(row),
            f"{row['date']:%Y-%m-%d}" if row["date"] else "",
            (row["config_hash"] or "")[:DIGITS],
            *("" if row[name] is None else f"{row[name]:,}" for name in ("videos", "clips")),
            size(row["bytes"]),
            classes(row),
        ]
        for row in table.iter_rows(named=True)
    ]
    title, *lines = aligned(header, rows, numbers={"videos", "clips", "size"}).splitlines()
    print(title)
    for data, declared in data_tables().items():
        print(f"{data}: {declared.path}")
        of_data = [line for line, name in zip(lines, table["data"], strict=True) if name == data]
        print("\n".join(of_data or ["   not known: no dvc.lock of the history names it"]))
    print("\n* is what the workspace's dvc.lock names")
    if missing := table.filter(~pl.col("cached")).height:
        print(f"{counted(missing, 'version')} not in the cache of DVC:\n  {how_to_fetch()}")


def first_in(row: dict[str, Any]) -> str:
    if row["commit"] is None:
        return "workspace" if row["workspace"] else "no commit"
    return str(row["experiment"] or row["commit"][:DIGITS])


def classes(row: dict[str, Any]) -> str:
    """Return how many clips each class has, or videos if there are no clips."""
    if row["classes"] is None:
        return "not counted: other columns" if row["cached"] else "not in the cache"
    unit = "videos" if row["clips"] is None else "clips"
    return ", ".join(f"{item[unit]:,} {item['label']}" for item in row["classes"])


def print_differences(table: pl.DataFrame, max_rows: int) -> None:
    counts = table.group_by("change").len().sort("change").iter_rows()
    kinds = ", ".join(f"{count:,} {change}" for change, count in counts)
    videos = counted(table["video_path"].n_unique(), "video")
    print(f"\n{videos} with differences{kinds and f': {kinds}'}")
    if table.is_empty():
        return
    rows = [
        [change, shortened(before), shortened(after), path]
        for path, change, before, after in table.head(max_rows).iter_rows()
    ]
    print(aligned(["change", "A", "B", "video"], rows))
    if table.height > max_rows:
        print(f"and {table.height - max_rows:,} more: --max-rows shows more, --json all")


def shortened(value: str | None) -> str:
    return re.sub(r"[0-9a-f]{64}", lambda found: found[0][:DIGITS], value or "")
