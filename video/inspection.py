"""Video files in, a verdict and the facts of each out.

What a container states is not believed: lengths come from a full decode by one thread; several
videos at once use the cores better.
"""

import hashlib
import math
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av

from video.facts import VideoFacts
from video.fingerprints import Fingerprint
from video.streams import frame_crc32, picture_stream, rotation

# A header may promise a frame or two that an encoder never wrote; more is a file cut off.
_TOLERATED_MISSING_FRAMES = 2
_TOLERATED_MISSING_SHARE = 0.02

# Their frames lie in other files, which the hash of this one does not cover.
_PLAYLISTS = frozenset({"concat", "dash", "hls"})


@dataclass(kw_only=True)
class _Record:
    """What the packets and frames of one stream have shown so far."""

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
    in_doubt: bool = False
    _size: tuple[int, int] = (0, 0)

    def add_packet(self, packet: "av.Packet[av.stream.Stream]") -> None:
        if packet.size == 0 and packet.pts is None and packet.dts is None:
            return  # the sign that the stream has ended
        self.packet_pts.append(packet.pts)
        # An edit list hides its frame, as where a video was cut between key frames and not encoded
        # anew.
        self.num_hidden += packet.is_discard
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

    def proves_timing(self) -> bool:
        """Whether every packet gave the frame of its pts, and every frame has a pts of its own."""
        if self.in_doubt:
            return False
        return sorted(pts for pts in self.packet_pts if pts is not None) == self.frame_pts


def inspect_video(path: Path, max_duration_sec: float = math.inf) -> VideoFacts:
    """Decode every frame of `path` once and report what is in it; never raises for a bad file.

    Decoding stops at `max_duration_sec` of frames. Raises `MemoryError` when there is too little.
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
    except (av.FFmpegError, ValueError) as error:
        return rejected("unreadable", f"no video file: {_message(error)}{_likely_cause(path)}")
    with container:
        if container.format.name in _PLAYLISTS:
            return rejected("unreadable", "a list of other files; name those in the index")
        stream = picture_stream(container)
        if stream is None:
            return rejected("no_video", "the file holds no video stream")
        max_frames = max_duration_sec * float(stream.average_rate or math.inf)
        facts = _decode_fully(container, stream, sha256, size_bytes, max_frames)
        return facts or rejected("too_long", f"it lasts more than {max_duration_sec:g} s")


def _likely_cause(path: Path) -> str:
    """What a file that FFmpeg cannot open looks like, and the remedy; "" if like nothing known."""
    with path.open("rb") as file:
        head = file.read(512)
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "; it is a web page, as a failed download leaves it: fetch it again"
    if head.startswith(b"version https://git-lfs"):
        return "; it is a pointer of git-lfs: run git lfs pull"
    if head[4:8] == b"ftyp":
        return "; it is cut off, its table of contents is missing: copy it again"
    return ""


def _decode_fully(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    sha256: str,
    size_bytes: int,
    max_frames: float,
) -> VideoFacts | None:
    """None if there are more than `max_frames`."""
    record, error_text, end_sec = _Record(), "", 0.0
    fingerprint = Fingerprint(expected_frames=stream.frames)
    try:
        for packet in container.demux():
            end_sec = max(end_sec, _end_sec(packet))
            if packet.stream.index != stream.index:
                continue
            record.add_packet(packet)
            for frame in stream.decode(packet):
                record.add_frame(frame)
                fingerprint.add(frame)
            if len(record.frame_pts) > max_frames:
                return None
    except MemoryError:
        raise
    except (av.FFmpegError, ValueError) as error:
        error_text = _message(error)
    num_frames = len(record.frame_pts)
    first = record.first
    declared = stream.frames
    fps = stream.average_rate or Fraction(0)
    missing_sec = _stated_duration_sec(container) - end_sec
    verdict, reason = _verdict(
        num_frames,
        declared - record.num_hidden,
        float(missing_sec * fps),
        record.first_corrupt,
        error_text,
    )
    proven = verdict == "ok" and record.proves_timing()
    return VideoFacts(
        verdict=verdict,
        reason=reason,
        sha256=sha256,
        size_bytes=size_bytes,
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
        packet_pts=tuple(record.packet_pts),
        frame_pts=tuple(record.frame_pts),
        key_frame_pts=tuple(record.key_frame_pts),
        frame_crc32=tuple(record.frame_crc32) if proven else (),
        fingerprint=fingerprint.hashes(),
    )


def _end_sec(packet: "av.Packet[av.stream.Stream]") -> float:
    """When the packet's content ends; 0 if it does not say."""
    if packet.pts is None:
        return 0.0
    return float((packet.pts + (packet.duration or 0)) * packet.time_base)


def _stated_duration_sec(container: av.container.InputContainer) -> float:
    """The duration in the header of a Matroska or WebM file, which states no number of frames.

    0 for other containers: where their header states none, FFmpeg's figure comes from what the
    file still holds.
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
