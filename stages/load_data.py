"""Inspection of the index: every video decoded in full, and the usable ones kept.

A content that an earlier run has decoded is not decoded again: its facts are in DVC's cache, and
those of a run that was killed or failed below runs/.
What cannot be used goes to data/quarantine.csv with row, path, verdict and reason. The stage fails
above `load_data.max_quarantined`, or when a class is left empty.
"""

import functools
import re
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import polars as pl

from mlops.errors import PipelineError, grouped
from mlops.files import atomic
from mlops.files.tables import listed
from mlops.inputs import StageInputs
from mlops.params import section_as
from mlops.processes.progress import counted, track
from mlops.recorded.reuse import EarlierFiles
from mlops.stage import run_stage
from mlops.workers.pool import Executor, Fault, WorkerPool
from mlops.workers.worker import Limits
from stages.params import Data, LoadData, read_params
from stages.paths import INSPECTIONS, QUARANTINE, QUARANTINED, VIDEOS
from video.clips.packs import PACK_NAME
from video.index.rows import (
    Columns,
    Rejection,
    accept_rows,
    alike_names,
    check_rows,
    names_a_file,
    read_index,
    settle_paths,
    unknown_labels,
)
from video.index.segments import (
    END,
    START,
    has_segments,
    with_group_of_file,
    with_segments,
)
from video.index.table import IndexFileError, read_table
from video.source.facts import (
    Content,
    InspectionLimits,
    VideoFacts,
    inspections_table,
    known_facts,
    video_table,
)
from video.source.inspection import inspect_video
from video.source.pictures import picture_bytes, picture_pack
from video.splitting.groups import linked_groups

PICTURED = QUARANTINED / "rows.csv"

EARLIER = EarlierFiles("load_data", rf"{re.escape(INSPECTIONS.name)}|{PACK_NAME}")
SAVED = EARLIER.directory / INSPECTIONS.name
SAVING_SHARE = 0.005  # of the time

MAX_PICTURED = 50  # quarantined videos, for the report


def main(inputs: StageInputs) -> None:
    params = read_params()
    root = Path(params.data.root)
    index = index_rows(params.data)
    warn_of_alike_names(index)
    inputs.read_only(root, [root / name for name in named_paths(index)])
    rows, rejections = check_rows(index, root, params.data.labels)
    unknown = unknown_labels(index, params.data.labels)
    for line in grouped(f"warning: {params.data.index}: {label}" for label in unknown):
        print(f"load_data: {line}")
    # Before hours of decoding, too.
    check_loss(index, rows, rejections, params.data, params.load_data)
    limits = section_as(params.load_data, InspectionLimits)
    guard = Limits(time_sec=limits.time_limit_sec, memory_mb=limits.memory_limit_mb)
    with WorkerPool(section_as(params.runtime, Executor), guard) as workers:
        contents, unread = read_contents(index, root, workers)
        names = [name for name in rows["video_path"] if name in contents]
        # One path for each content: copies are decoded once.
        paths = {contents[name]: root / name for name in reversed(names)}
        known = find_known(paths, limits)
        found = decode(paths, known, limits, workers)
        facts = {name: found[content] for name, content in contents.items() if content in found}
        facts |= unread
        rows, refused = accept_rows(
            rows, facts, params.load_data.accept, params.load_data.min_frames
        )
        rejections = sorted(rejections + refused, key=lambda rejection: rejection.row)
        inputs.check()
        picture(rejections, facts, root, workers)
    save(found, limits, INSPECTIONS)
    write_quarantine(rejections)
    sha256s = {name: sha256 for name, (sha256, _) in contents.items()}
    links = index.select("row", linked_groups(index, sha256s))
    videos = with_segments(video_table(rows.join(links, on="row"), facts, params.data.labels))
    check_loss(index, videos, rejections, params.data, params.load_data)
    inputs.check()
    with atomic.replacing(VIDEOS) as path:
        videos.write_parquet(path)
    EARLIER.clear()
    counts = f"{counted(len(found) - len(known), 'video')} decoded, {len(known)} known"
    usable = f"{videos.height} usable, {counted(len(rejections), 'row')} in {QUARANTINE}"
    print(f"load_data: {counts}; {usable}")


def index_rows(data: Data) -> pl.DataFrame:
    columns = Columns(
        path=data.path_column,
        label=data.label_column,
        group=data.group_column,
        split=data.split_column,
    )
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
        table = read_table(path.read_bytes(), [name for name in vars(columns).values() if name])
        index = read_index(table, columns)
    except IndexFileError as error:
        raise PipelineError(*(f"{path}: {fault}" for fault in error.faults)) from None
    taken = ", ".join(f"{key} '{name}'" for key, name in vars(columns).items() if name)
    if has_segments(index):
        taken += f", segments by {START} and {END}"
    print(f"load_data: {path}: {counted(index.height, 'row')}, {table.form}; {taken}")
    return with_group_of_file(settle_paths(index, Path(data.root)))


def warn_of_alike_names(index: pl.DataFrame) -> None:
    for noun, column in (("group", "group"), ("video", "video_path")):
        pairs = [" and ".join(map(repr, names)) for names in alike_names(index[column])]
        if pairs:
            print(
                f"load_data: warning: {noun}s whose names differ in case or white space alone are "
                f"different {noun}s: {listed(pairs)}; write them alike in the index if they are one"
            )


def named_paths(index: pl.DataFrame) -> list[str]:
    return index["video_path"].unique(maintain_order=True).to_list()


def read_contents(
    index: pl.DataFrame, root: Path, workers: WorkerPool
) -> tuple[dict[str, Content], dict[str, VideoFacts]]:
    """Return the content of every readable file, and the verdict on every other one."""
    names = [name for name in named_paths(index) if names_a_file(name, root)]
    hashed = workers.map(hash_of, [root / name for name in names])
    tracked = track(hashed, total=len(names), task="load_data, reading")
    contents: dict[str, Content] = {}
    unread: dict[str, VideoFacts] = {}
    for name, found in zip(names, tracked, strict=True):
        if isinstance(found, str):
            contents[name] = (found, Path(name).suffix.lower())
        elif isinstance(found, Fault):
            unread[name] = stopped("", root / name, found)
        else:
            reason = f"the file cannot be read: {found.strerror}"
            unread[name] = VideoFacts(verdict="unreadable", reason=reason, sha256="", size_bytes=0)
    return contents, unread


def hash_of(path: Path) -> str | OSError:
    try:
        return atomic.content_hash(path)
    except OSError as error:
        return error


def find_known(contents: Iterable[Content], limits: InspectionLimits) -> dict[Content, VideoFacts]:
    """Return the facts that earlier runs found in these contents."""
    known: dict[Content, VideoFacts] = {}
    missing = set(contents)
    for path in EARLIER.versions(INSPECTIONS):
        if missing:
            known |= known_facts(missing, pl.read_parquet(path), limits)
            missing -= known.keys()
    return known


def decode(
    paths: dict[Content, Path],
    known: dict[Content, VideoFacts],
    limits: InspectionLimits,
    workers: WorkerPool,
) -> dict[Content, VideoFacts]:
    """Return the known facts and those found in the other files at `paths`, saved now and then."""
    new = {content: path for content, path in paths.items() if content not in known}
    inspect = functools.partial(inspect_video, max_duration_sec=limits.max_duration_sec)
    inspected = workers.map(inspect, list(new.values()))
    tracked = track(inspected, total=len(new), task="load_data")
    facts = dict(known)
    next_save_sec = 0.0
    for (content, path), found in zip(new.items(), tracked, strict=True):
        if isinstance(found, Fault):
            found = stopped(content[0], path, found)
        if found.sha256 != content[0]:
            raise PipelineError(
                f"{path}: expected one content while it was inspected, got another at the end; "
                "wait until nothing writes to it and run the same command again"
            )
        facts[content] = found
        start_sec = time.monotonic()
        if start_sec >= next_save_sec or len(facts) == len(paths):
            save(facts, limits, SAVED)
            next_save_sec = start_sec + (time.monotonic() - start_sec) / SAVING_SHARE
    return facts


def save(facts: dict[Content, VideoFacts], limits: InspectionLimits, place: Path) -> None:
    with atomic.replacing(place) as path:
        inspections_table(facts, limits).write_parquet(path)


def stopped(sha256: str, path: Path, fault: Fault) -> VideoFacts:
    remedy = {
        "timeout": "remove it, or raise load_data.time_limit_sec",
        "out_of_memory": "remove it, or raise load_data.memory_limit_mb",
        "crashed": "remove it or encode it anew",
        "internal_error": "an error of this program, not of the file: report it, with the file",
    }[fault.kind]
    return VideoFacts(
        verdict=fault.kind,
        reason=f"inspection {fault.reason}; {remedy}",
        sha256=sha256,
        size_bytes=path.stat().st_size if path.is_file() else 0,
    )


def picture(
    rejections: list[Rejection],
    facts: dict[str, VideoFacts],
    root: Path,
    workers: WorkerPool,
) -> None:
    """Write frames of the rejected videos that have some, and which row they are of."""
    seen = {
        item.row: item.video_path
        for item in rejections
        if item.video_path in facts and facts[item.video_path].num_frames
    }
    packs = {row: picture_pack(facts[name].sha256) for row, name in seen.items()}
    shown = {packs[row]: name for row, name in list(seen.items())[:MAX_PICTURED]}
    contents = {pack: EARLIER.find(pack) for pack in shown}
    tasks = [
        (root / name, facts[name].num_frames) for pack, name in shown.items() if not contents[pack]
    ]
    taken = workers.map(picture_bytes, tasks)
    written = set()
    for pack, content in contents.items():
        frames = content or next(taken)
        if not isinstance(frames, Fault):
            atomic.write_bytes(QUARANTINED / pack, frames)
            written.add(pack)
    rows = [(row, pack) for row, pack in packs.items() if pack in written]
    table = pl.DataFrame(rows, schema={"row": pl.Int64, "pack": pl.String}, orient="row")
    atomic.write_text(PICTURED, table.write_csv())


def write_quarantine(rejections: list[Rejection]) -> None:
    schema = {"row": pl.Int64} | dict.fromkeys(("video_path", "verdict", "reason"), pl.String)
    table = pl.DataFrame([asdict(item) for item in rejections], schema=schema)
    atomic.write_text(QUARANTINE, table.write_csv())


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
    if empty := [f"'{label}'" for label in data.labels if not counts.get(label)]:
        faults.append(
            f"{data.index}: expected usable videos of every class, got none of "
            f"{listed(empty, 20)}; mend the rows or remove the class from data.labels"
        )
    if faults:
        write_quarantine(rejections)
        unknown = [f"{data.index}: {label}" for label in unknown_labels(index, data.labels)]
        told = set(index.filter(~pl.col("label").is_in(data.labels))["row"])
        shown = [
            f"{data.index} row {item.row}: {item.verdict}: {item.reason}"
            for item in rejections
            if item.verdict != "invalid" or item.row not in told
        ]
        raise PipelineError(*faults, *unknown, *shown, f"all rows are named in {QUARANTINE}")


if __name__ == "__main__":
    run_stage("load_data", main)
