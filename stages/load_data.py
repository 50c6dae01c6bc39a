"""Read the index, decode every video in full, and keep what can be used.

What cannot be used goes to data/quarantine.csv with row, path and reason. The stage fails above
`load_data.max_quarantined`, or when a class is left empty.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import polars as pl

from mlops import files
from mlops.errors import PipelineError
from mlops.progress import track
from mlops.stage import run_stage
from mlops.workers import map_processes
from stages.params import Data, LoadData, read_params
from video.index import (
    Columns,
    IndexFileError,
    Rejection,
    check_rows,
    contradictory_copies,
    read_index,
)
from video.inspection import VideoFacts, inspect_video

VIDEOS = Path("data/videos.parquet")
QUARANTINE = Path("data/quarantine.csv")

# The types that no row may tell: a list can be empty in all of them.
LISTS = {
    "frame_pts": pl.List(pl.Int64),
    "key_frame_pts": pl.List(pl.Int64),
    "frame_crc32": pl.List(pl.UInt32),
    "fingerprint": pl.List(pl.UInt64),
}

# A message of thousands of lines helps nobody; the file has them all.
MOST_REASONS_SHOWN = 20


def main() -> None:
    params = read_params()
    index = index_rows(params.data)
    rows, rejections = check_rows(index, Path(params.data.root), params.data.labels)
    facts = inspect_all(rows, Path(params.data.root), params.runtime.workers)
    rows, rejections = accept(rows, facts, rejections, params.load_data.accept)
    videos = video_table(rows, facts, params.data.labels)
    write_quarantine(rejections)
    check_loss(index, videos, rejections, params.data, params.load_data)
    with files.replacing(VIDEOS) as path:
        videos.write_parquet(path)
    print(f"load_data: {videos.height} videos usable, {len(rejections)} rows in {QUARANTINE}")


def index_rows(data: Data) -> pl.DataFrame:
    columns = Columns(path=data.path_column, label=data.label_column, group=data.group_column)
    path = Path(data.index)
    if not path.is_file():
        raise PipelineError(
            f"{path}: expected the index of the videos, found no file; see data.index"
        )
    if not Path(data.root).is_dir():
        raise PipelineError(
            f"{data.root}: expected the directory of the videos, found none; see data.root"
        )
    try:
        return read_index(path.read_bytes(), columns)
    except IndexFileError as error:
        raise PipelineError(*(f"{path}: {fault}" for fault in error.faults)) from None


def inspect_all(rows: pl.DataFrame, root: Path, workers: int) -> dict[str, VideoFacts]:
    paths = [root / name for name in rows["video_path"]]
    inspected = map_processes(inspect_video, paths, workers=workers)
    facts = track(inspected, total=len(paths), task="load_data")
    return dict(zip(rows["video_path"], facts, strict=True))


def accept(
    rows: pl.DataFrame,
    facts: dict[str, VideoFacts],
    rejections: list[Rejection],
    verdicts: Sequence[str],
) -> tuple[pl.DataFrame, list[Rejection]]:
    """Move to the rejections the rows whose verdict is not accepted, and contradictory copies."""
    sound = rows.filter(
        pl.Series(
            [facts[name].verdict in verdicts for name in rows["video_path"]], dtype=pl.Boolean
        )
    )
    refused = [
        Rejection(row=row, video_path=name, reason=f"{facts[name].verdict}: {facts[name].reason}")
        for row, name in rows.select("row", "video_path").iter_rows()
        if facts[name].verdict not in verdicts
    ] + contradictory_copies(sound, [facts[name].sha256 for name in sound["video_path"]])
    usable = rows.filter(~pl.col("row").is_in([rejection.row for rejection in refused]))
    return usable, sorted(rejections + refused, key=lambda rejection: rejection.row)


def video_table(
    rows: pl.DataFrame, facts: dict[str, VideoFacts], labels: Sequence[str]
) -> pl.DataFrame:
    """One typed row a video; the label is an Enum, so that the order of the classes travels on."""
    table = pl.DataFrame(
        [asdict(facts[name]) for name in rows["video_path"]],
        schema=list(VideoFacts.__dataclass_fields__),
        schema_overrides=LISTS,
        infer_schema_length=None,
    )
    return rows.with_columns(pl.col("label").cast(pl.Enum(labels))).hstack(table)


def write_quarantine(rejections: list[Rejection]) -> None:
    schema = {"row": pl.Int64, "video_path": pl.String, "reason": pl.String}
    table = pl.DataFrame([asdict(rejection) for rejection in rejections], schema=schema)
    files.write_text(QUARANTINE, table.write_csv())


def check_loss(
    index: pl.DataFrame,
    videos: pl.DataFrame,
    rejections: list[Rejection],
    data: Data,
    limits: LoadData,
) -> None:
    """Fail, with the rows that are to blame, where too little is left to train on."""
    faults = []
    share = len(rejections) / index.height
    if share > limits.max_quarantined:
        faults.append(
            f"{data.index}: expected at most {limits.max_quarantined:.1%} of the rows to be "
            f"unusable, got {len(rejections)} of {index.height} ({share:.1%}); mend them, or raise "
            "load_data.max_quarantined"
        )
    counts = dict(videos["label"].value_counts().iter_rows())
    faults += [
        f"{data.index}: expected usable videos of every class, got none of '{label}'; mend the "
        f"rows or remove the class from data.labels"
        for label in data.labels
        if not counts.get(label)
    ]
    if faults:
        shown = [
            f"{data.index} row {item.row}: {item.reason}"
            for item in rejections[:MOST_REASONS_SHOWN]
        ]
        hidden = len(rejections) - len(shown)
        more = [f"and {hidden} more rows in {QUARANTINE}"] if hidden else []
        raise PipelineError(*faults, *shown, *more)


if __name__ == "__main__":
    run_stage("load_data", main)
