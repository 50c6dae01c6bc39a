"""The packets and frames of a full decode, and what their number and their times say."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from statistics import median_low

import av

from video.source.container import (
    DecodingError,
    decoded_frames,
    demuxed,
    frame_crc32,
    make_convertible,
)

# An MPEG-4 packet as short as this can say "not coded", the picture before it is shown again: a
# start code, five fields and at most two bytes of time. Decoders give no frame for it.
_MAX_UNCODED_BYTES = 8

# A stream whose frames are as far apart as each other but for so few is no recording of variable
# rate: there, frames are missing.
_MAX_GAPS_SHARE = 0.05
_MIN_STEPS = 8


@dataclass(kw_only=True)
class Record:
    """The packets and frames of one stream decoded so far.

    failed: the first error of the decoder or the demuxer.
    remark: on how the frames are read, "" if there is nothing to remark.
    first_sec, end_sec: times between which all content lies, of any stream.
    first_corrupt: number of the first frame that the decoder flags, -1 if it flags none.
    num_corrupt_packets: of any stream, with bytes missing according to the demuxer.
    num_discarded: packets that are decoded but hidden by an edit list, as when a video was cut
        between key frames.
    num_unlisted: frames that an edit list hides and that are not even demuxed.
    """

    failed: DecodingError | None = None
    remark: str = ""
    first_sec: float = math.inf
    end_sec: float = 0.0
    packet_pts: list[int | None] = field(default_factory=list)
    key_packet_pts: set[int] = field(default_factory=set)
    frame_pts: list[int | None] = field(default_factory=list)
    key_frame_pts: list[int] = field(default_factory=list)
    frame_crc32: list[int] = field(default_factory=list)
    first: av.VideoFrame | None = None
    first_corrupt: int = -1
    num_corrupt: int = 0
    num_corrupt_packets: int = 0
    num_size_changes: int = 0
    num_discarded: int = 0
    num_unlisted: int = 0
    num_short: int = 0
    in_doubt: bool = False
    _size: tuple[int, int] = (0, 0)
    _durations: dict[int | None, int] = field(default_factory=dict)
    _first_key: int | None = None  # place of its packet
    _has_fields: bool = False

    def frames(
        self, container: av.container.InputContainer, stream: av.VideoStream
    ) -> Iterator[av.VideoFrame]:
        """Decode and record up to the end of the file; errors of the file go to the record.

        The consumer's own exceptions propagate.
        """
        try:
            for frame in decoded_frames(self._packets(container, stream), stream):
                self._add_frame(frame)
                yield frame
        except DecodingError as error:
            self.failed = error

    def _packets(
        self, container: av.container.InputContainer, stream: av.VideoStream
    ) -> "Iterator[av.Packet[av.stream.Stream]]":
        for packet in demuxed(container):
            if packet.pts is not None:
                unit_sec = float(packet.time_base)
                self.first_sec = min(self.first_sec, packet.pts * unit_sec)
                self.end_sec = max(self.end_sec, (packet.pts + (packet.duration or 0)) * unit_sec)
            self.num_corrupt_packets += packet.is_corrupt
            if packet.size and packet.stream.index == stream.index:
                self._add_packet(packet)
            yield packet

    def _add_packet(self, packet: "av.Packet[av.stream.Stream]") -> None:
        if packet.is_keyframe and self._first_key is None:
            self._first_key = len(self.packet_pts)
        self.packet_pts.append(packet.pts)
        self._durations[packet.pts] = packet.duration or 0
        self.num_discarded += packet.is_discard
        self.num_short += packet.size <= _MAX_UNCODED_BYTES
        if packet.pts is None:
            self.in_doubt = True
        elif packet.is_keyframe:
            self.key_packet_pts.add(packet.pts)

    def _add_frame(self, frame: av.VideoFrame) -> None:
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
        self._has_fields |= frame.interlaced_frame
        self.remark = make_convertible(frame) or self.remark

    def proves_timing(self) -> bool:
        """Return whether packets and frames match one to one, each with a pts of its own."""
        if self.in_doubt:
            return False
        return sorted(pts for pts in self.packet_pts if pts is not None) == self.frame_pts

    def end_pts(self) -> int | None:
        """Return the pts at which the last frame ends; None unless the frames' pts ascend."""
        pts = [value for value in self.frame_pts if value is not None]
        steps = [after - before for before, after in pairwise(pts)]
        if not pts or len(pts) < len(self.frame_pts) or min(steps, default=1) <= 0:
            return None
        return pts[-1] + (self._durations.get(pts[-1]) or median_low(steps or [0]))

    def is_longer(self, sec: float, stream: av.VideoStream) -> bool:
        """Return whether the frames so far last longer, by their pts, else by the stated rate."""
        first, last = self.frame_pts[0], self.frame_pts[-1]
        if first is None or last is None or stream.time_base is None:
            return len(self.frame_pts) > sec * float(stream.average_rate or math.inf)
        return (last - first) * float(stream.time_base) > sec

    def missing_sec(self, stated_sec: float) -> float:
        """Return the time between the end of all content and the stated end."""
        return stated_sec - max(self.end_sec, self.end_sec - self.first_sec)

    def longest_step(self) -> int:
        """Return how long a frame is shown at most, but for the last one, by the packets' pts."""
        return max(self._steps(), default=0)

    def _steps(self) -> list[int]:
        pts = sorted({pts for pts in self.packet_pts if pts is not None})
        return [after - before for before, after in pairwise(pts)]

    def rate_and_duration(self, stream: av.VideoStream) -> tuple[float, float]:
        """Return frames per second and seconds, the rate being the mean.

        Of the stated rate, if the frames last as long as it says, to a frame; else of their pts.
        """
        stated, num_frames = stream.average_rate or Fraction(0), len(self.frame_pts)
        by_rate = num_frames / stated if stated else Fraction(0)
        end, first = self.end_pts(), self.frame_pts[0] if self.frame_pts else None
        if end is None or first is None or stream.time_base is None:
            return float(stated), float(by_rate)
        by_pts = (end - first) * stream.time_base
        if by_pts <= 0 or (stated and abs(by_pts - by_rate) <= 1 / stated):
            return float(stated), float(by_rate)
        return float(num_frames / by_pts), float(by_pts)

    def num_lost(self, codec: str) -> int:
        """Return how many packets of a codec whose packets all show a picture gave no frame.

        Those before the first key frame, in the file or as shown, cannot be decoded in a recording
        that began in the middle; and two fields may be one frame.
        """
        if codec not in ("h264", "hevc") or self._has_fields or self._first_key is None:
            return 0
        first, *others = self.packet_pts[self._first_key :]
        late = [pts for pts in others if pts is None or first is None or pts > first]
        return 1 + len(late) - self.num_discarded - len(self.frame_pts)

    def has_gap(self) -> bool:
        """Return whether frames are missing between others of a stream of constant rate.

        The first frame may stand alone, as some programs write it.
        """
        steps = self._steps()[1:]
        if len(steps) < _MIN_STEPS:
            return False
        usual = median_low(steps)
        others = [step for step in steps if step <= 1.5 * usual]
        is_constant = max(others) - min(others) <= max(1, usual // 50)
        num_wide = len(steps) - len(others)
        return is_constant and 0 < num_wide <= max(1, _MAX_GAPS_SHARE * len(steps))
