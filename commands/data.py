"""Versions of the data: all of them, those that a run used, and what differs between two.

python -m commands data                 every version in the history, oldest first
python -m commands data used RUN        those that a run was trained on
python -m commands data diff A B        the videos that differ
"""

import argparse
import re
from typing import Any

import polars as pl

from mlops.files.tables import aligned, size
from mlops.lineage import VIDEO, DataVersionManager, how_to_fetch
from mlops.processes.progress import counted
from mlops.recorded.dvc_lock import TABLES

DIGITS = 8  # of a hash


def add_arguments(parser: argparse.ArgumentParser) -> None:
    as_json = "print the whole frame as JSON"
    parser.add_argument("--json", action="store_true", help=as_json)
    questions = parser.add_subparsers(dest="question", metavar="{used,diff}")
    used = questions.add_parser("used", help="the versions that a run was trained on")
    used.add_argument("run", metavar="RUN", help="a run's id, or its directory below runs/")
    diff = questions.add_parser("diff", help="the videos that differ between two versions")
    for name, letter in (("before", "A"), ("after", "B")):
        diff.add_argument(
            name,
            metavar=letter,
            help="a revision of git, an experiment's name, 'workspace', or the first digits of a "
            "content hash",
        )
    diff.add_argument("--most", type=int, default=40, metavar="N", help="rows to show at most (40)")
    for question in (used, diff):
        question.add_argument(
            "--json", action="store_true", default=argparse.SUPPRESS, help=as_json
        )


def main(options: argparse.Namespace) -> None:
    manager = DataVersionManager()
    if options.question == "diff":
        table = manager.diff(options.before, options.after)
    elif options.question == "used":
        table = manager.used_by(options.run)
    else:
        table = manager.versions()
    if options.json:
        print(table.write_json())
    elif options.question == "diff":
        print_comparison(manager.compare(options.before, options.after))
        print_differences(table, options.most)
    else:
        print_versions(table)


def print_versions(table: pl.DataFrame) -> None:
    header = ["", "version", "first in", "date", "config", "videos", "clips", "size", "classes"]
    rows = [
        [
            "*" if row["workspace"] else "",
            row["content_hash"][:DIGITS],
            first_in(row),
            f"{row['date']:%Y-%m-%d}" if row["date"] else "",
            (row["config_hash"] or "")[:DIGITS],
            number(row["videos"]),
            number(row["clips"]),
            size(row["bytes"]),
            classes(row),
        ]
        for row in table.iter_rows(named=True)
    ]
    title, *lines = aligned(header, rows, numbers={"videos", "clips", "size"}).splitlines()
    print(title)
    for data, path in TABLES.items():
        print(f"{data}: {path}")
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
    """Clips of each class, or videos where there are no clips."""
    if row["classes"] is None:
        return "not counted: other columns" if row["cached"] else "not in the cache"
    unit = "videos" if row["clips"] is None else "clips"
    return ", ".join(f"{item[unit]:,} {item['label']}" for item in row["classes"])


def number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def print_comparison(table: pl.DataFrame) -> None:
    rows = [
        [data, before[:DIGITS], "the same" if before == after else after[:DIGITS]]
        for data, before, after in table.iter_rows()
    ]
    print(aligned(["data", "A", "B"], rows))


def print_differences(table: pl.DataFrame, most: int) -> None:
    counts = table.group_by("change").len().sort("change").iter_rows()
    kinds = ", ".join(f"{count:,} {change}" for change, count in counts)
    print(f"\n{counted(table[VIDEO].n_unique(), 'video')} with differences{kinds and f': {kinds}'}")
    if table.is_empty():
        return
    rows = [
        [change, shortened(before), shortened(after), path]
        for path, change, before, after in table.head(most).iter_rows()
    ]
    print(aligned(["change", "A", "B", "video"], rows))
    if table.height > most:
        print(f"and {table.height - most:,} more: --most shows more, --json all")


def shortened(value: str | None) -> str:
    return re.sub(r"[0-9a-f]{64}", lambda found: found[0][:DIGITS], value or "")
