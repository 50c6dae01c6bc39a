"""The user's table of videos: checked row by row, so that one bad row costs one row.

A fault of the table as a whole (no such column, not UTF-8, no rows) raises `IndexFileError`, all of
them at once. A fault of a row becomes a `Rejection` with row, path and reason.
"""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath

import polars as pl

from video.source.facts import VideoFacts

# Columns that later stages add; a user's column of such a name is renamed to `csv_<name>`.
RESERVED = frozenset(field.name for field in fields(VideoFacts)) | frozenset(
    (
        *("row", "video_path", "label", "group", "linked_group", "split", "fold"),
        *("pack", "clip", "offset_bytes", "frames", "dtype", "clip_sha256", "copy"),
    )
)

Fault = tuple[str, str]  # verdict and reason
# The first of these is the verdict of a row with several faults.
_GRAVEST_FIRST = ["missing", "contradiction", "duplicate", "invalid"]


class IndexFileError(ValueError):
    """The table as a whole cannot be used; `faults` has one sentence per fault."""

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The user's names of the columns."""

    path: str
    label: str
    group: str


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """A row that cannot be used. `row` counts from 1 below the header.

    verdict: "missing" (no such file), "invalid" (the row itself is at fault), "duplicate" or
    "contradiction" (other rows name the same file, or the same bytes), or that of the video's
    inspection, see `VideoFacts`.
    """

    row: int
    video_path: str
    verdict: str
    reason: str


def read_index(content: bytes, columns: Columns) -> pl.DataFrame:
    """Return the rows: `row, video_path, label, group` and the other columns, all as text.

    An empty group is null: such a video is a group of its own. Labels and groups are without white
    space around them and in Unicode's normal form NFC, so that what looks the same is the same.
    """
    frame = _parse(content)
    wanted = {"path": columns.path, "label": columns.label, "group": columns.group}
    missing = [name for name in wanted.values() if name not in frame.columns]
    if missing:
        # Without the group column, copies of one video could end up in training and test. So the
        # table is refused, not taken as "every video is its own group".
        known = ", ".join(frame.columns)
        if len(frame.columns) == 1 and (mark := next((m for m in ";\t|" if m in known), "")):
            raise IndexFileError(
                f"expected columns separated by commas, got '{known}', which looks separated by "
                f"{mark!r}; save it with commas"
            )
        raise IndexFileError(
            *(
                f"expected a column '{name}', got the columns {known}; add it, or name yours "
                f"in params.yaml at data.{key}_column"
                for key, name in wanted.items()
                if name in missing
            )
        )
    others = {
        name: f"csv_{name}" if name in RESERVED else name
        for name in frame.columns
        if name not in wanted.values()
    }
    taken = [name for name, kept in others.items() if kept != name and kept in others]
    if taken:
        raise IndexFileError(
            *(
                f"expected no column 'csv_{name}' beside '{name}', which is kept under that name; "
                "rename one of them"
                for name in taken
            )
        )
    # Blank lines are no rows but count as such, so that `row` is the line below the header.
    blank = pl.all_horizontal(pl.col(frame.columns) == "")
    rows = pl.int_range(1, frame.height + 1, dtype=pl.Int64).alias("row")
    table = frame.select(
        rows,
        pl.col(columns.path).alias("video_path"),
        _plain(columns.label).alias("label"),
        _plain(columns.group).replace("", None).alias("group"),
        *(pl.col(name).alias(kept) for name, kept in others.items()),
    ).filter(~frame.select(blank).to_series())
    if table.is_empty():
        raise IndexFileError("expected at least one row below the header, got none; add the videos")
    return table


def _plain(column: str) -> pl.Expr:
    return pl.col(column).str.normalize("NFC").str.strip_chars()


def alike_groups(groups: pl.Series) -> list[list[str]]:
    """Return the groups whose names differ in case or white space alone, sorted."""
    spelled: dict[str, list[str]] = {}
    for name in groups.drop_nulls().unique().sort():
        spelled.setdefault("".join(name.casefold().split()), []).append(name)
    return [names for names in spelled.values() if len(names) > 1]


def check_rows(
    frame: pl.DataFrame, root: Path, labels: Sequence[str]
) -> tuple[pl.DataFrame, list[Rejection]]:
    """Split the rows into those that name an existing file below `root`, and rejections.

    Each row is in exactly one of the two; the reason of a rejection names all faults of the row.
    """
    repeated = _repeated(frame)
    rejections: list[Rejection] = []
    for row, video_path, label in frame.select("row", "video_path", "label").iter_rows():
        faults = [
            *_path_faults(video_path, root),
            *_label_faults(label, labels),
            *repeated.get(row, []),
        ]
        if faults:
            verdicts, reasons = zip(*faults, strict=True)
            rejections.append(
                Rejection(
                    row=row,
                    video_path=video_path,
                    verdict=min(verdicts, key=_GRAVEST_FIRST.index),
                    reason="; ".join(reasons),
                )
            )
    return _without(frame, rejections), rejections


def accept_rows(
    frame: pl.DataFrame, facts: Mapping[str, VideoFacts], verdicts: Sequence[str]
) -> tuple[pl.DataFrame, list[Rejection]]:
    """Split the rows into those with an accepted verdict, and rejections.

    `facts` is by video path. Of copies whose labels contradict each other, none is accepted.
    """
    refused = [
        Rejection(row=row, video_path=name, verdict=facts[name].verdict, reason=facts[name].reason)
        for row, name in frame.select("row", "video_path").iter_rows()
        if facts[name].verdict not in verdicts
    ]
    sound = _without(frame, refused)
    sha256s = [facts[name].sha256 for name in sound["video_path"]]
    refused += contradictory_copies(sound, sha256s)
    return _without(frame, refused), refused


def _without(frame: pl.DataFrame, rejections: Sequence[Rejection]) -> pl.DataFrame:
    return frame.filter(~pl.col("row").is_in([rejection.row for rejection in rejections]))


def names_a_file(video_path: str, root: Path) -> bool:
    """Return whether a path leads to a file below `root`, whatever other faults its row has."""
    return not _path_faults(video_path, root)


def contradictory_copies(frame: pl.DataFrame, sha256: Sequence[str]) -> list[Rejection]:
    """Reject the rows whose files are equal by `sha256` but whose labels differ.

    The right label is unknown, so none of the rows is used.
    """
    table = frame.select("row", "video_path", "label").with_columns(
        sha256=pl.Series(sha256, dtype=pl.String)
    )
    return [
        Rejection(
            row=row,
            video_path=video_path,
            verdict="contradiction",
            reason=f"row {others} holds the same bytes with another label",
        )
        for copies in table.partition_by("sha256", maintain_order=True)
        if copies["label"].n_unique() > 1
        for row, video_path in copies.select("row", "video_path").iter_rows()
        for others in [", ".join(str(other) for other in copies["row"] if other != row)]
    ]


def _parse(content: bytes) -> pl.DataFrame:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise IndexFileError(
            f"line {line}: expected UTF-8, got byte {content[error.start]:#04x}; save it as UTF-8"
        ) from None
    if not content.strip():
        raise IndexFileError("expected a header and rows, got an empty file; add the videos")
    names = next(csv.reader(content.decode("utf-8-sig").splitlines()[:1]), [])
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise IndexFileError(
            *(
                f"expected every column once, got '{name}' more than once; remove or rename one"
                for name in twice
            )
        )
    try:
        frame = pl.read_csv(io.BytesIO(content), infer_schema=False)
    except pl.exceptions.PolarsError as error:
        raise IndexFileError(*_unparsable(content, error)) from None
    return frame.fill_null("")


def _unparsable(content: bytes, error: pl.exceptions.PolarsError) -> list[str]:
    """Describe an open quotation mark, else all rows with too many fields, else `error` itself."""
    text = content.decode("utf-8-sig")
    if text.count('"') % 2:
        lines = enumerate(text.splitlines(), start=1)
        first = next(number for number, line in lines if line.count('"') % 2)
        return [
            f"line {first}: expected quotation marks in pairs, got one without its second here or "
            "further down; quote the whole field and write a mark inside it twice"
        ]
    message = " ".join(str(error).rpartition("Original error:")[2].replace("```", "").split())
    return _long_rows(text) or [f"expected a CSV table, got one that does not parse: {message}"]


def _long_rows(text: str) -> list[str]:
    rows = csv.reader(io.StringIO(text))
    try:
        num_columns = len(next(rows, []))
        return [
            f"row {number}: expected {num_columns} fields, got {len(row)}; quote a field that "
            "holds a comma"
            for number, row in enumerate(rows, start=1)
            if len(row) > num_columns
        ]
    except csv.Error:  # marks so far apart that a field would fill half the file
        return []


def _path_faults(video_path: str, root: Path) -> list[Fault]:
    if not video_path:
        return [("invalid", "video_path is empty")]
    # Not resolved: links below the root are intended, as `data/mine` may be a link to a disk.
    if Path(video_path).is_absolute() or ".." in Path(video_path).parts:
        reason = f"video_path '{video_path}' leaves {root}; give a path below it, without '..'"
        return [("invalid", reason)]
    path = root / video_path
    try:
        if path.is_file():
            return []
        found = path.exists()
    except OSError as error:
        return [("invalid", f"video_path '{video_path}' cannot be looked up: {error.strerror}")]
    if found:
        return [("invalid", f"video_path '{video_path}' is no file; name the video itself")]
    reason = f"video_path '{video_path}' not found under {root}; put the file there or drop the row"
    return [("missing", reason)]


def _label_faults(label: str, labels: Sequence[str]) -> list[Fault]:
    if label in labels:
        return []
    return [("invalid", f"label: expected one of {', '.join(labels)}, got '{label}'")]


def _repeated(frame: pl.DataFrame) -> dict[int, list[Fault]]:
    """Return the fault of each row whose file another row names too, in whatever spelling.

    If the labels agree, the first row stays; `linked_groups` joins their groups. If they differ,
    the right label is unknown, so none of the rows is used.
    """
    faults: dict[int, list[Fault]] = {}
    named = frame.filter(pl.col("video_path") != "")
    spelled_alike = [str(PurePosixPath(path)) for path in named["video_path"]]
    named = named.with_columns(pl.Series("file", spelled_alike, dtype=pl.String))
    for rows in named.partition_by("file", maintain_order=True):
        if rows.height == 1:
            continue
        agree = rows["label"].n_unique() == 1
        numbers = rows["row"].to_list()
        for number in numbers[1 if agree else 0 :]:
            others = ", ".join(str(other) for other in numbers if other != number)
            contradiction = f"the label differs from row {others} of the same file"
            faults[number] = [
                ("duplicate", f"row {numbers[0]} names the same file")
                if agree
                else ("contradiction", contradiction)
            ]
    return faults
