"""Facts of a video from its full decode, and the table that keeps them for later runs.

A row of that table is a function of the file's bytes, the suffix of its name (FFmpeg reads it
too), the versions of the inspection and of the decoders, and the limits of the inspection.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import polars as pl

from video.source.container import decoder_versions
from video.splitting.fingerprints import FINGERPRINT_VERSION

# Raise it when a file may get other facts than before.
INSPECTION_VERSION = 5

# A limit ended these inspections: another limit may let them go on.
STOPPED_BY_A_LIMIT = ("timeout", "out_of_memory", "too_long")
# These are no fault of the file, or need not be: of the machine, of this program.
TRIED_AGAIN = ("crashed", "internal_error")

Content = tuple[str, str]  # sha256, and suffix in lower case


@dataclass(frozen=True, kw_only=True)
class VideoFacts:
    """The result of one full decode.

    verdict: "ok"; "truncated" (it ends before its header says), "damaged" (frames flagged corrupt,
    an error, or parts missing in the middle), "unreadable" (no container that FFmpeg knows, or no
    decoder for its pictures), "no_video" (no picture in it), "too_long" (decoding stopped there),
    the limit that ended the process at work: "timeout", "out_of_memory", "crashed", or
    "internal_error" (this program failed, not the file). `reason` says more; it is "" if ok, or a
    remark on how the file is read.
    `length_known` is false if nothing in the file tells whether its end is missing;
    `num_hidden_frames` counts those that an edit list hides.
    Sizes are in pixels as stored, before `rotation` (0, 90, 180 or 270 degrees counterclockwise)
    is applied; `fps` is the mean rate that the container states, or that of the frames if their
    times say otherwise, 0.0 if neither is known. From `container` on
    they are statements of the file, see header.py; `audio_rate` is in Hz, of the first sound.

    The rest is for reading single frames later. `packet_pts` has every packet of the chosen stream
    in the order of the file, `frame_pts` every frame in display order, in units of the stream's
    time base, None if missing; the last one ends at `end_pts`, None unless the pts ascend;
    `key_frame_pts` those at which decoding can begin according to both
    packet and frame. `timing_proven` means that these suffice to pick a frame by its pts: the
    verdict is ok, every packet has a pts, the sorted pts of the packets are those of the frames, no
    two alike, no frame is flagged corrupt, and all have one size. Only then `frame_crc32` is
    filled. `fingerprint` has the hashes of fingerprints.py; empty if no picture has contrast.
    """

    verdict: str
    reason: str
    sha256: str
    size_bytes: int
    num_frames: int = 0
    declared_frames: int = 0
    length_known: bool = False
    fps: float = 0.0
    duration_sec: float = 0.0
    width: int = 0
    height: int = 0
    rotation: int = 0
    codec: str = ""
    pixel_format: str = ""
    stream_index: int = -1
    num_corrupt_frames: int = 0
    num_size_changes: int = 0
    num_hidden_frames: int = 0
    timing_proven: bool = False
    container: str = ""
    profile: str = ""
    color_tags: str = ""
    interlaced: bool = False
    mirrored: bool = False
    pixel_aspect: float = 1.0
    time_base: str = ""
    written_by: str = ""
    num_streams: int = 0
    audio_codec: str = ""
    audio_rate: int = 0
    audio_channels: int = 0
    packet_pts: tuple[int | None, ...] = ()
    frame_pts: tuple[int | None, ...] = ()
    end_pts: int | None = None
    key_frame_pts: tuple[int, ...] = ()
    frame_crc32: tuple[int, ...] = ()
    fingerprint: tuple[int, ...] = ()


def too_short(
    facts: VideoFacts, num_frames: int, min_frames: int
) -> tuple[Literal["too_short"], str] | None:
    """Return verdict and reason if so many frames of a video are too few, as one of a picture."""
    if num_frames >= min_frames:
        return None
    frames = f"{num_frames} frame" + "s" * (num_frames != 1)
    if num_frames == facts.num_frames == 1:
        return "too_short", f"it has {frames}, as a picture; a video has at least {min_frames}"
    return "too_short", f"it has {frames}, expected at least {min_frames}"


_TYPES: dict[Any, Any] = {
    **{str: pl.String, int: pl.Int64, float: pl.Float64, bool: pl.Boolean},
    int | None: pl.Int64,
}
_LISTS = {
    "packet_pts": pl.List(pl.Int64),
    "frame_pts": pl.List(pl.Int64),
    "key_frame_pts": pl.List(pl.Int64),
    "frame_crc32": pl.List(pl.UInt32),
    "fingerprint": pl.List(pl.UInt64),
}


@dataclass(frozen=True, kw_only=True)
class InspectionLimits:
    """Limits of one video: wall-clock time of its decode, memory (10⁶ bytes), duration."""

    time_limit_sec: float
    memory_limit_mb: int
    max_duration_sec: float


def facts_table(facts: Iterable[VideoFacts]) -> pl.DataFrame:
    """Return one row per video, in the given order; the column types never vary."""
    return pl.DataFrame([asdict(found) for found in facts], schema=_columns(VideoFacts))


def video_table(
    rows: pl.DataFrame, facts: Mapping[str, VideoFacts], labels: Sequence[str]
) -> pl.DataFrame:
    """Return the rows with the facts of their videos, which are given by path.

    The label is an Enum, which keeps the order of the classes.
    """
    table = facts_table(facts[name] for name in rows["video_path"])
    return rows.with_columns(pl.col("label").cast(pl.Enum(labels))).hstack(table)


def inspections_table(facts: dict[Content, VideoFacts], limits: InspectionLimits) -> pl.DataFrame:
    """Return one row per content, sorted by hash, with its inspection key and limits."""
    contents = sorted(facts)
    how = {"inspection": inspection_key()} | asdict(limits)
    schema = {"suffix": pl.String, "inspection": pl.String} | _columns(InspectionLimits)
    rows = pl.DataFrame([{"suffix": suffix} | how for _, suffix in contents], schema=schema)
    return rows.hstack(facts_table(facts[content] for content in contents))


def known_facts(
    contents: Iterable[Content], table: pl.DataFrame, limits: InspectionLimits
) -> dict[Content, VideoFacts]:
    """Return the facts of an earlier run that a decode under `limits` would find again.

    A complete inspection is valid under wider limits too; one that a limit ended is valid under the
    same limits only.
    """
    if table.schema != inspections_table({}, limits).schema:
        return {}
    given = asdict(limits)
    same = pl.all_horizontal(pl.col(name) == limit for name, limit in given.items())
    within = pl.all_horizontal(pl.col(name) <= limit for name, limit in given.items())
    stopped = pl.col("verdict").is_in(STOPPED_BY_A_LIMIT)
    valid = table.filter(
        pl.col("inspection") == inspection_key(),
        ~pl.col("verdict").is_in(TRIED_AGAIN),
        pl.when(stopped).then(same).otherwise(within),
    )
    found = {(row["sha256"], row["suffix"]): _facts(row) for row in valid.iter_rows(named=True)}
    return {content: found[content] for content in contents if content in found}


def inspection_key() -> str:
    """Return the versions that determine the result of an inspection, as JSON."""
    versions = {"inspection": INSPECTION_VERSION, "fingerprint": FINGERPRINT_VERSION}
    return json.dumps(versions | decoder_versions())


def _columns(kind: Any) -> dict[str, Any]:
    return {field.name: _LISTS.get(field.name) or _TYPES[field.type] for field in fields(kind)}


def _facts(row: dict[str, Any]) -> VideoFacts:
    """Restore the facts of a row as `inspect_video` returned them, with tuples for lists."""
    values = {field.name: row[field.name] for field in fields(VideoFacts)}
    return VideoFacts(**values | {name: tuple(values[name]) for name in _LISTS})
