"""Which stream of a file holds the pictures, and what tells its frames apart.

Shared by the full decode that inspects a file and by the one that reads a few frames of it: both
must look at the same stream with the same eyes.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import av
import numpy as np


def decoder_versions() -> dict[str, str]:
    """The versions that decide which bytes a video decodes to."""
    libraries = {name: ".".join(map(str, number)) for name, number in av.library_versions.items()}
    return {"av": av.__version__} | {
        name: libraries[name] for name in ("libavcodec", "libavformat", "libswscale")
    }


@dataclass(frozen=True, kw_only=True)
class FrameTiming:
    """What a full decode of a file recorded of its frames, where that is enough to skip some.

    pts: of every frame in display order, strictly increasing, in units of the stream's time base.
    key_pts: of the frames at which decoding can begin, ascending, a part of `pts`.
    crc32: `frame_crc32` of every frame, as many as `pts`.
    """

    stream_index: int
    pts: tuple[int, ...]
    key_pts: tuple[int, ...]
    crc32: tuple[int, ...]


def frame_timing(facts: Mapping[str, Any]) -> FrameTiming | None:
    """The timing in a row of the facts of `inspect_video`; None if it was not proven."""
    if not facts["timing_proven"]:
        return None
    return FrameTiming(
        stream_index=facts["stream_index"],
        pts=tuple(facts["frame_pts"]),
        key_pts=tuple(facts["key_frame_pts"]),
        crc32=tuple(facts["frame_crc32"]),
    )


def picture_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """The first video stream that is no cover picture, decoded by one thread."""
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            stream.thread_type = "NONE"
            stream.codec_context.thread_count = 1
            return stream
    return None


def rotation(frame: av.VideoFrame) -> int:
    """The display matrix's rotation, counterclockwise, in whole quarter turns."""
    return round(frame.rotation / 90) % 4 * 90


def frame_crc32(frame: av.VideoFrame) -> int:
    """CRC-32 of every fourth row of a picture, its size, format, colours and rotation.

    Wrong decoding shows in whole blocks, and codecs predict none of less than four rows of luma.
    All rows would cost a fifth of decoding the frame.
    """
    crc = zlib.crc32(
        repr(
            (
                *(frame.width, frame.height, frame.format.name, frame.rotation),
                *(int(frame.colorspace), int(frame.color_range), frame.interlaced_frame),
                *(int(frame.color_primaries), int(frame.color_trc)),
            )
        ).encode()
    )
    components = frame.format.components
    for number, plane in enumerate(frame.planes):
        # What lies between the end of a row and the start of the next is left to chance.
        row_bytes = sum(
            part.width * -(-part.bits // 8) for part in components if part.plane == number
        )
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        crc = zlib.crc32(np.ascontiguousarray(rows[::4, :row_bytes]).data, crc)
    return crc
