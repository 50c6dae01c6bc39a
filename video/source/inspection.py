"""Inspection of video files: a verdict and the facts of each, from a full decode.

The container's own statements are not relied on: lengths come from decoding every frame, on one
thread, because several videos at once use the cores better.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av

from video.source.container import (
    decoded_frames,
    frame_crc32,
    make_convertible,
    picture_stream,
    rotation,
    undecodable_codecs,
)
from video.source.facts import VideoFacts
from video.source.fingerprint import Fingerprint
from video.source.header import header_facts

# A header may promise a frame or two that an encoder never wrote; more is a file cut off.
_TOLERATED_MISSING_FRAMES = 2
_TOLERATED_MISSING_SHARE = 0.02

# An MPEG-4 packet as short as this can say "not coded", the picture before it is shown again: a
# start code, five fields and at most two bytes of time. Decoders give no frame for it.
_MAX_UNCODED_BYTES = 8

# Their frames lie in other files, which the hash of this one does not cover.
_PLAYLISTS = frozenset({"concat", "dash", "hls"})


@dataclass(kw_only=True)
class _Record:
    """The packets and frames of one stream decoded so far.

    error_text: the error that ended the decoding early, "" if none did.
    remark: on how the frames are read, "" if there is nothing to remark.
    end_sec: end time of the last packet's content, in any stream.
    """

    error_text: str = ""
    remark: str = ""
    end_sec: float = 0.0
    packet_pts: list[int | None] = field(default_factory=list)
    key_packet_pts: set[int] = field(default_factory=set)
    frame_pts: list[int | None] = field(default_factory=list)
    key_frame_pts: list[int] = field(default_factory=list)
    frame_crc32: list[int] = field(default_factory=list)
    first: av.VideoFrame | None = None
    first_corrupt: int = -1
    num_corrupt: int = 0
    num_size_changes: int = 0
    num_hidden: int = 0
    num_short: int = 0
    in_doubt: bool = False
    _size: tuple[int, int] = (0, 0)

    def add_packet(self, packet: "av.Packet[av.stream.Stream]") -> None:
        if packet.size == 0:
            return  # no frame, see `decoded_frames`
        self.packet_pts.append(packet.pts)
        # Hidden by an edit list, as when a video was cut between key frames without re-encoding.
        self.num_hidden += packet.is_discard
        self.num_short += packet.size <= _MAX_UNCODED_BYTES
        if packet.pts is None:
            self.in_doubt = True
        elif packet.is_keyframe:
            self.key_packet_pts.add(packet.pts)

    def add_frame(self, frame: av.VideoFrame) -> None:
        if self.first is None:
            self.first = frame
            self._size = (frame.width, frame.height)
        if frame.is_corrupt:
            self.num_corrupt += 1
            if self.first_corrupt < 0:
                self.first_corrupt = len(self.frame_pts)
        if self._size != (frame.width, frame.height):
            self.num_size_changes += 1
            self._size = (frame.width, frame.height)
        last = self.frame_pts[-1] if self.frame_pts else None
        if frame.pts is None or (last is not None and frame.pts <= last):
            self.in_doubt = True
        elif frame.key_frame and frame.pts in self.key_packet_pts:
            self.key_frame_pts.append(frame.pts)
        self.in_doubt |= bool(self.num_corrupt or self.num_size_changes)
        self.frame_pts.append(frame.pts)
        if not self.in_doubt:
            self.frame_crc32.append(frame_crc32(frame))
        self.remark = make_convertible(frame) or self.remark

    def proves_timing(self) -> bool:
        """Return whether packets and frames match one to one, each with a pts of its own."""
        if self.in_doubt:
            return False
        return sorted(pts for pts in self.packet_pts if pts is not None) == self.frame_pts


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
    except MemoryError:
        raise
    except av.FFmpegError as error:
        return rejected("unreadable", f"no video file: {_message(error)}{_likely_cause(path)}")
    with container:
        if container.format.name in _PLAYLISTS:
            return rejected("unreadable", "a list of other files; name those in the index")
        stream = picture_stream(container)
        if stream is None:
            if unknown := undecodable_codecs(container):
                return rejected("unreadable", _no_decoder(unknown))
            return rejected("no_video", "the file holds no video stream")
        max_frames = max_duration_sec * float(stream.average_rate or math.inf)
        facts = _decode_fully(path, container, stream, sha256, max_frames)
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
    max_frames: float,
) -> VideoFacts | None:
    """Return the facts of a full decode; None if there are more than `max_frames`."""
    record = _Record()
    fingerprint = Fingerprint(expected_frames=stream.frames)
    for frame in _frames(container, stream, record):
        record.add_frame(frame)
        fingerprint.add(frame)
        if len(record.frame_pts) > max_frames:
            return None
    num_frames = len(record.frame_pts)
    first = record.first
    declared = stream.frames
    fps = stream.average_rate or Fraction(0)
    missing_sec = _stated_duration_sec(container) - record.end_sec
    expected = declared
    if num_frames < declared:
        listed = _num_listed(path, stream.index)
        expected = listed if num_frames <= listed else declared
    if stream.codec_context.name == "mpeg4":
        expected -= record.num_short
    verdict, reason = _verdict(
        num_frames,
        expected - record.num_hidden,
        float(missing_sec * fps),
        record.first_corrupt,
        record.error_text,
    )
    proven = verdict == "ok" and record.proves_timing()
    return VideoFacts(
        verdict=verdict,
        reason=reason or record.remark,
        sha256=sha256,
        size_bytes=path.stat().st_size,
        num_frames=num_frames,
        declared_frames=declared,
        fps=float(fps),
        duration_sec=float(num_frames / fps) if fps else 0.0,
        width=first.width if first else 0,
        height=first.height if first else 0,
        rotation=rotation(first) if first else 0,
        codec=stream.codec_context.name,
        pixel_format=first.format.name if first else "",
        stream_index=stream.index,
        num_corrupt_frames=record.num_corrupt,
        num_size_changes=record.num_size_changes,
        timing_proven=proven,
        **header_facts(container, stream, first),
        packet_pts=tuple(record.packet_pts),
        frame_pts=tuple(record.frame_pts),
        key_frame_pts=tuple(record.key_frame_pts),
        frame_crc32=tuple(record.frame_crc32) if proven else (),
        fingerprint=fingerprint.hashes(),
    )


def _frames(
    container: av.container.InputContainer, stream: av.VideoStream, record: _Record
) -> Iterator[av.VideoFrame]:
    """Decode up to the end of the file or to its first error, which goes to the record.

    Only exceptions raised in here are faults of the file; the consumer's own propagate.
    """

    def noted() -> "Iterator[av.Packet[av.stream.Stream]]":
        for packet in container.demux():
            record.end_sec = max(record.end_sec, _end_sec(packet))
            if packet.stream.index == stream.index:
                record.add_packet(packet)
            yield packet

    try:
        yield from decoded_frames(noted(), stream)
    except MemoryError:
        raise
    except av.FFmpegError as error:
        record.error_text = _message(error)


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


def _end_sec(packet: "av.Packet[av.stream.Stream]") -> float:
    """Return the end time of the packet's content; 0 if the packet has no pts."""
    if packet.pts is None:
        return 0.0
    return float((packet.pts + (packet.duration or 0)) * packet.time_base)


def _stated_duration_sec(container: av.container.InputContainer) -> float:
    """Return the duration in the header of a Matroska or WebM file, which states no frame count.

    0 for other containers: without a duration in the header, FFmpeg derives one from the content
    that is left in the file.
    """
    if "matroska" not in container.format.name or container.duration is None:
        return 0.0
    return container.duration / av.time_base


def _verdict(
    num_frames: int,
    declared: int,
    missing_by_time: float,
    first_corrupt: int,
    error_text: str,
) -> tuple[str, str]:
    if num_frames == 0:
        return "no_video", f"no frame decodes ({error_text or 'nothing said'})"
    missing = declared - num_frames
    tolerated = max(_TOLERATED_MISSING_FRAMES, _TOLERATED_MISSING_SHARE * declared)
    if missing > tolerated:
        cause = f": {error_text}" if error_text else ""
        return "truncated", f"{num_frames} of {declared} declared frames decode{cause}"
    if missing_by_time > max(_TOLERATED_MISSING_FRAMES, _TOLERATED_MISSING_SHARE * num_frames):
        return (
            "truncated",
            f"{num_frames} frames decode, about {missing_by_time:.0f} more are in the duration "
            "that the header states",
        )
    if error_text:
        return "damaged", f"decoding fails after frame {num_frames - 1}: {error_text}"
    if first_corrupt >= 0:
        return "damaged", f"the decoder flags frame {first_corrupt} as corrupt"
    return "ok", ""


def _message(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
