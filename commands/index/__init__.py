"""An index of your videos, and the lines of params.yaml for it, from what you have."""

from collections.abc import Sequence
from pathlib import Path

import click
import polars as pl

from commands.index.checks import (
    check_videos,
    class_faults,
    index_faults,
    repeated,
    unusable_split,
    warnings_of,
)
from commands.index.files import Files, scan
from commands.index.grouping import RULES, GroupBy, Named, examples, guessed_groups
from commands.index.layouts import Wanted, read_source
from commands.index.parameters import edited, lines, values_for
from commands.index.placement import placement
from commands.index.source import Row, Source
from commands.index.summary import print_ignored, print_sizes
from commands.index.tables import Choice
from mlops.errors import PipelineError, grouped
from mlops.files import atomic
from mlops.files.tables import listed
from mlops.processes.progress import counted
from stages.paths import PARAMS_FILE

CHECK = (
    "check: videos cut from one recording must have one group, and so must those of one person, if "
    "the classifier is to work for others. Correct the column group, or try --group-by folder, "
    "name or none. create_splits joins videos that look alike, which different moments of one "
    "recording may not"
)
NO_GROUPS = (
    "every video is a group of its own, for nothing says what comes from one source; if several "
    "were cut from one recording, test and training share it, and the score is too good: write "
    "the recording into the column group"
)


@click.command(help=__doc__)
@click.argument("folder", type=Path)
@click.option("--name", metavar="NAME", help="Of data/NAME and the runs.  [that of FOLDER]")
@click.option("--write", is_flag=True, help="Write the lines to params.yaml, not only print them.")
@click.option("--force", is_flag=True, help="Write over an index, which is kept as .replaced1.")
@click.option(
    "--group-by",
    type=click.Choice(["folder", "name", "none"]),
    help="Make groups by this alone.  [those of the table; else a guess from folders and names]",
)
@click.option("--table", metavar="FILE", help="Table or list in FOLDER that names the videos.")
@click.option("--path-column", metavar="COLUMN", help="Of the table.")
@click.option("--label-column", metavar="COLUMN", help="Of the table.")
@click.option("--group-column", metavar="COLUMN", help="Of the table.")
@click.option("--official-split", default=1, metavar="N", help="Of UCF101 and HMDB51.  [1]")
def command(
    folder: Path,
    name: str | None,
    write: bool,
    force: bool,
    group_by: GroupBy | None,
    table: str | None,
    path_column: str | None,
    label_column: str | None,
    group_column: str | None,
    official_split: int,
) -> None:
    place = placement(folder, name)
    place.check(force=force)
    files = scan(place.folder, own=(place.index, place.ignored))
    check_videos(place.folder, files)
    wanted = Wanted(
        table=table,
        columns=Choice(path=path_column, label=label_column, group=group_column),
        official_split=official_split,
    )
    source = read_source(place.folder, files, wanted)
    rows = checked_rows(source)
    groups = groups_of(rows, group_by)
    index = index_table(rows, groups)
    content = csv_text(index)
    where = listed([f"{place.folder}/{name}" for name in source.tables] or [place.folder])
    faults = [*index_faults(where, content.encode()), *class_faults(place.folder, index)]
    if faults:
        raise PipelineError(*source.warnings, *faults)
    form = source.form.partition(":")[0]  # without the names of columns
    values = values_for(
        index=place.index,
        root=place.root,
        labels=sorted(index["label"].unique(), key=as_number),
        split_column="" if unusable_split(index) else "split",
        name=place.name,
        description=f"{counted(index.height, 'video')} of {place.folder.name}, from {form}",
    )
    text, params = edited(values)
    ignored = left_out(files, source, rows)
    place.link()
    place.write(place.index, content)
    place.write(place.ignored, csv_text(ignored))
    print(f"{place.index}: {counted(index.height, 'video')} from {source.form}")
    print_groups(rows, groups, group_by)
    print()
    print_sizes(index)
    if ignored.height:
        print_ignored(dict(ignored.iter_rows()), place.ignored)
    if not group_by and index.filter(pl.col("group") != "").is_empty():
        source.warnings.append(NO_GROUPS)
    print_warnings([*source.warnings, *warnings_of(index, params.split.num_folds)])
    if place.is_linked:
        print(
            f"\n{place.root} is a link: DVC notices changes there, but cannot keep versions of it"
        )
    if write:
        atomic.write_bytes(PARAMS_FILE, text.encode())
    print(f"\nwritten to {PARAMS_FILE}:" if write else f"\nfor {PARAMS_FILE} (--write writes it):")
    print(lines(values))
    print("\nnext: dvc repro report")


def as_number(label: str) -> tuple[bool, int, str]:
    """Return the key by which labels are sorted: numbers by value, before names."""
    return not label.isdecimal(), int(label) if label.isdecimal() else 0, label


def checked_rows(source: Source) -> list[Row]:
    """Return each video once, in order; raise for all faults of the rows."""
    rows, faults, warnings = repeated(source.rows)
    source.warnings += warnings
    if faults := [*source.faults, *faults]:
        raise PipelineError(*faults)
    if not rows:
        raise PipelineError(*source.warnings)
    return sorted(rows, key=lambda row: row.path)


def groups_of(rows: Sequence[Row], by: GroupBy | None) -> list[str]:
    """Return the groups that the source tells, or those guessed, for rows of which it does not."""
    named = [Named(path=row.path, label=row.label, folders=row.folders) for row in rows]
    guessed = guessed_groups(named, by or "guess")
    told = [None if by else row.group for row in rows]
    return [guess if group is None else group for group, guess in zip(told, guessed, strict=True)]


def index_table(rows: Sequence[Row], groups: Sequence[str]) -> pl.DataFrame:
    """Return the index: path, label, group, split if there is one, and the source's own columns."""
    columns: dict[str, Sequence[str]] = {
        "video_path": [row.path for row in rows],
        "label": [row.label for row in rows],
        "group": groups,
    }
    if any(row.split for row in rows):
        columns["split"] = [row.split for row in rows]
    for name in dict.fromkeys(name for row in rows for name in row.others):
        free = name
        while free in columns:
            free = f"csv_{free}"
        columns[free] = [row.others.get(name, "") for row in rows]
    return pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))


def left_out(files: Files, source: Source, rows: Sequence[Row]) -> pl.DataFrame:
    """Return the files that the index does not have, each with the reason."""
    indexed = {row.path for row in rows}
    reasons = {path: why for path, why in files.ignored.items() if path not in source.tables}
    told = listed(source.tables)
    for path in files.videos:
        if path not in indexed:
            reasons[path] = source.left_out.get(path, f"no row of {told} names it")
    return pl.DataFrame(
        sorted(reasons.items()), schema={"path": pl.String, "reason": pl.String}, orient="row"
    )


def csv_text(table: pl.DataFrame) -> str:
    """Return a table as CSV, in which empty texts are fields without quotation marks."""
    return table.with_columns(pl.all().replace("", None)).write_csv()


def print_groups(rows: Sequence[Row], groups: Sequence[str], by: GroupBy | None) -> None:
    """Say where the groups come from; of a guess, by which rule, with examples."""
    guessed = [i for i, row in enumerate(rows) if by or row.group is None]
    if not guessed:
        print("groups: as the source tells them")
        return
    some = "" if len(guessed) == len(rows) else f" for {len(guessed)} videos without one"
    print(f"groups: {'made' if by else 'guessed'}{some}: {RULES[by or 'guess']}")
    named = [
        Named(path=rows[i].path, label=rows[i].label, folders=rows[i].folders) for i in guessed
    ]
    for line in examples(named, [groups[i] for i in guessed]):
        print(f"  {line}")
    print(CHECK)


def print_warnings(warnings: Sequence[str]) -> None:
    if warnings:
        print()
    for line in grouped(f"warning: {warning}" for warning in warnings):
        print(line)
