"""Inspection of video files: a verdict and the facts of each, from a full decode.

The container's own statements are not relied on: lengths come from decoding every frame, on one
thread, because several videos at once use the cores better.
"""

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path

import av

from video.source.container import (
    lacks_memory_for,
    picture_stream,
    rotation,
    undecodable_codecs,
)
from video.source.facts import VideoFacts
from video.source.fingerprint import Fingerprint
from video.source.header import header_facts
from video.source.record import Record
from video.source.structure import Structure, structure_of

# A header may promise a frame or two that an encoder never wrote; more is a file cut off.
_TOLERATED_MISSING_FRAMES = 2
_TOLERATED_MISSING_SHARE = 0.02

# Longer cuts are not made with an edit list: a damaged table of times hides as many.
_LEAST_SHOWN_SHARE = 0.25

# Here frames can be missing without a trace but in the times of the others.
_WITH_LOOSE_FRAMES = frozenset({"asf", "mpegts", "mpeg", "mpegvideo", "m4v"})

# Their frames lie in other files, which the hash of this one does not cover.
_PLAYLISTS = frozenset({"concat", "dash", "hls"})


def inspect_video(path: Path, max_duration_sec: float = math.inf) -> VideoFacts:
    """Decode every frame of `path` once and report what is in it; never raises for a bad file.

    Decoding stops at `max_duration_sec` of frames. Raises `MemoryError` if memory runs out; any
    other exception is an error of this program, not a fault of the file.
    """
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        size_bytes = path.stat().st_size
    except OSError as error:
        return VideoFacts(verdict="unreadable", reason=_message(error), sha256="", size_bytes=0)

    def rejected(verdict: str, reason: str) -> VideoFacts:
        return VideoFacts(verdict=verdict, reason=reason, sha256=sha256, size_bytes=size_bytes)

    if size_bytes == 0:
        return rejected("unreadable", "the file is empty")
    try:
        container = av.open(str(path), metadata_errors="replace")
    except av.FFmpegError as error:
        if isinstance(error, MemoryError) and lacks_memory_for(path):
            raise
        return rejected("unreadable", f"no video file: {_message(error)}{_likely_cause(path)}")
    with container:
        if container.format.name in _PLAYLISTS:
            return rejected("unreadable", "a list of other files; name those in the index")
        stream = picture_stream(container)
        if stream is None:
            if unknown := undecodable_codecs(container):
                return rejected("unreadable", _no_decoder(unknown))
            return rejected("no_video", "the file holds no video stream")
        facts = _decode_fully(path, container, stream, sha256, max_duration_sec)
        return facts or rejected("too_long", f"it lasts more than {max_duration_sec:g} s")


def _likely_cause(path: Path) -> str:
    """Guess why FFmpeg cannot open a file, and name the remedy; "" if unknown."""
    with path.open("rb") as file:
        head = file.read(512)
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "; it is a web page, as a failed download leaves it: fetch it again"
    if head.startswith(b"version https://git-lfs"):
        return "; it is a pointer of git-lfs: run git lfs pull"
    if head[4:8] == b"ftyp":
        return "; it is cut off, its table of contents is missing: copy it again"
    return ""


def _no_decoder(codecs: list[str]) -> str:
    return (
        f"FFmpeg has no decoder for its pictures: codec {', '.join(codecs)}; export them with the "
        "tool of the camera or program that wrote the file"
    )


def _decode_fully(
    path: Path,
    container: av.container.InputContainer,
    stream: av.VideoStream,
    sha256: str,
    max_duration_sec: float,
) -> VideoFacts | None:
    """Return the facts of a full decode; None if the frames last longer than that."""
    record = Record()
    fingerprint = Fingerprint(expected_frames=stream.frames)
    for frame in record.frames(container, stream):
        fingerprint.add(frame)
        if record.is_longer(max_duration_sec, stream):
            return None
    first = record.first
    fps, duration_sec = record.rate_and_duration(stream)
    structure = structure_of(path, container.format.name)
    verdict, reason = _verdict(path, stream, record, structure)
    proven = verdict == "ok" and record.proves_timing()
    return VideoFacts(
        verdict=verdict,
        reason=reason or record.remark,
        sha256=sha256,
        size_bytes=path.stat().st_size,
        num_frames=len(record.frame_pts),
        declared_frames=stream.frames,
        length_known=structure.has_end or stream.frames > 0 or structure.stated_sec > 0,
        fps=fps,
        duration_sec=duration_sec,
        width=first.width if first else 0,
        height=first.height if first else 0,
        rotation=rotation(first) if first else 0,
        codec=stream.codec_context.name,
        pixel_format=first.format.name if first else "",
        stream_index=stream.index,
        num_corrupt_frames=record.num_corrupt,
        num_size_changes=record.num_size_changes,
        num_hidden_frames=record.num_discarded + record.num_unlisted,
        timing_proven=proven,
        **header_facts(container, stream, first),
        packet_pts=tuple(record.packet_pts),
        frame_pts=tuple(record.frame_pts),
        end_pts=record.end_pts(),
        key_frame_pts=tuple(record.key_frame_pts),
        frame_crc32=tuple(record.frame_crc32) if proven else (),
        fingerprint=fingerprint.words(),
    )


def _verdict(
    path: Path, stream: av.VideoStream, record: Record, structure: Structure
) -> tuple[str, str]:
    num_frames = len(record.frame_pts)
    cause = record.failed.message if record.failed else ""
    if num_frames == 0:
        return "no_video", f"no frame decodes ({cause or 'nothing said'})"
    expected = _expected_frames(path, stream, record)
    if _is_missed(expected - num_frames, expected):
        reason = f"{num_frames} of {expected} declared frames decode"
        return "truncated", f"{reason}: {cause}" if cause else reason
    if missing := _missing_by_time(stream, record, structure):
        return (
            "truncated",
            f"{num_frames} frames decode, about {missing:.0f} more are in the duration that the "
            "header states",
        )
    if faults := [*_faults(stream, record, structure)]:
        return "damaged", "; ".join(faults)
    if structure.cut and not structure.stated_sec:
        return "truncated", structure.cut
    return "ok", ""


def _missing_by_time(stream: av.VideoStream, record: Record, structure: Structure) -> float:
    """Return how many frames fit between the end and the stated end, 0.0 if it is tolerated."""
    rate, _ = record.rate_and_duration(stream)
    missing_sec = record.missing_sec(structure.stated_sec)
    # How long the last frame is shown, many files say in their header alone.
    last_sec = 0.0 if structure.cut else 1.1 * record.longest_step() * float(stream.time_base or 0)
    missed = _is_missed(missing_sec * rate, len(record.frame_pts))
    return missing_sec * rate if missed and missing_sec > last_sec else 0.0


def _is_missed(missing: float, expected: int) -> bool:
    return missing > max(_TOLERATED_MISSING_FRAMES, _TOLERATED_MISSING_SHARE * expected)


def _faults(stream: av.VideoStream, record: Record, structure: Structure) -> Iterator[str]:
    """Name each sign that frames inside of the video are missing, or are not as they were."""
    num_frames = len(record.frame_pts)
    if record.failed:
        yield str(record.failed)
    if record.first_corrupt >= 0:
        yield f"the decoder flags frame {record.first_corrupt} as corrupt"
    if record.num_corrupt_packets:
        yield f"bytes are missing in {record.num_corrupt_packets} packets"
    if structure.hole:
        yield f"the file has a hole: {structure.hole}"
    lost = record.num_lost(stream.codec_context.name)
    if _is_missed(lost, num_frames):
        yield f"{lost} packets give no frame"
    if stream.container.format.name in _WITH_LOOSE_FRAMES and record.has_gap():
        yield "frames are missing, by the times of the others"
    hidden = record.num_discarded + record.num_unlisted
    if hidden and (structure.contradiction or num_frames < _LEAST_SHOWN_SHARE * stream.frames):
        why = f": {structure.contradiction}" if structure.contradiction else ""
        yield f"an edit list hides {hidden} of {num_frames + hidden} frames{why}"


def _expected_frames(path: Path, stream: av.VideoStream, record: Record) -> int:
    """Return the number of frames that the container states, less those that are not shown."""
    expected, num_frames = stream.frames, len(record.frame_pts)
    if num_frames < expected:
        listed = _num_listed(path, stream.index)
        if num_frames <= listed:
            # Edit lists also take packets out of the index of an MP4 file.
            record.num_unlisted = expected - listed if _is_mp4(stream) else 0
            expected = listed
    uncoded = record.num_short if stream.codec_context.name == "mpeg4" else 0
    return expected - uncoded - record.num_discarded


def _is_mp4(stream: av.VideoStream) -> bool:
    return "mp4" in stream.container.format.name.split(",")


def _num_listed(path: Path, stream_index: int) -> int:
    """Count the packets of a stream that the index of the container says hold something.

    The header of an AVI file also counts the pictures that the recorder dropped. 0 if there is no
    such index, or if the end of an AVI file is missing, which holds the index of its last part.
    """
    if not _riff_is_whole(path):
        return 0
    with av.open(str(path), metadata_errors="replace") as container:
        return sum(entry.size > 0 for entry in container.streams[stream_index].index_entries)


def _riff_is_whole(path: Path) -> bool:
    """Return whether the file reaches the end of its last RIFF chunk; True if it has none.

    A recorder that was interrupted has left the size at 0.
    """
    place, size = 0, 1
    with path.open("rb") as file:
        while size and (head := file.read(8))[:4] == b"RIFF":
            size = int.from_bytes(head[4:], "little")
            place += 8 + size
            file.seek(place)
    return size > 0 and place <= path.stat().st_size


def _message(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
