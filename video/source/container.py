"""The video stream of a file, and the properties that identify its frames.

Shared by the full decode that inspects a file and by the one that reads a few of its frames: both
must choose the same stream and see the same frames.
"""

import ctypes
import math
import mmap
import re
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import av.logging
import numpy as np
from av.sidedata.sidedata import Type
from av.video.reformatter import ColorPrimaries, Colorspace
from numpy.typing import NDArray


def _unnamed_type(kinds: type[Type], number: int) -> Type:
    """Name a kind of side data that PyAV's enumeration lacks: EXIF, or the views of spatial video.

    Without a name, frames that carry one could not be asked for their display matrix.
    """
    kind: Any = object.__new__(kinds)
    kind._name_, kind._value_ = f"NUMBER_{number}", number
    return cast(Type, kind)


cast(Any, Type)._missing_ = classmethod(_unnamed_type)

# As AVColorSpace: RGB, BT.709, unspecified, FCC, BT.470BG, SMPTE 170M, SMPTE 240M, BT.2020.
_CONVERTIBLE_MATRICES = frozenset({0, 1, 2, 4, 5, 6, 7, 9})


def decoder_versions() -> dict[str, str]:
    """Return the library versions that determine the bytes of decoded frames."""
    libraries = {name: ".".join(map(str, number)) for name, number in av.library_versions.items()}
    return {"av": av.__version__} | {
        name: libraries[name] for name in ("libavcodec", "libavformat", "libswscale")
    }


@dataclass(frozen=True, kw_only=True)
class FrameTiming:
    """The record of a full decode that allows later reads to skip frames.

    pts: of every frame in display order, strictly increasing, in units of the stream's time base.
    key_pts: of the frames at which decoding can begin, ascending, a subset of `pts`.
    crc32: `frame_crc32` of every frame, as many as `pts`.
    """

    stream_index: int
    pts: tuple[int, ...]
    key_pts: tuple[int, ...]
    crc32: tuple[int, ...]


def frame_timing(facts: Mapping[str, Any]) -> FrameTiming | None:
    """Return the timing in a row of the facts of `inspect_video`; None if it was not proven."""
    if not facts["timing_proven"]:
        return None
    return FrameTiming(
        stream_index=facts["stream_index"],
        pts=tuple(facts["frame_pts"]),
        key_pts=tuple(facts["key_frame_pts"]),
        crc32=tuple(facts["frame_crc32"]),
    )


def picture_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """Return the main video stream that can be decoded and is no cover picture; one thread."""
    streams = [stream for stream in _moving_pictures(container) if _has_decoder(stream)]
    stream = _main(container, streams) if len(streams) > 1 else next(iter(streams), None)
    if stream is not None:
        stream.thread_type = "NONE"
        stream.codec_context.thread_count = 1
    return stream


def _main(container: av.container.InputContainer, streams: list[av.VideoStream]) -> av.VideoStream:
    """Choose the first stream that is no preview, by its number of frames and of pixels."""
    counts = Counter({stream.index: 0 for stream in streams})
    with av.open(container.name, metadata_errors="replace") as again, suppress(av.FFmpegError):
        for packet in demuxed(again, *(again.streams[index] for index in counts)):
            counts[packet.stream.index] += packet.size > 0
    long = [stream for stream in streams if 2 * counts[stream.index] >= max(counts.values())]
    sizes = [stream.width * stream.height for stream in long]
    return next(stream for stream, size in zip(long, sizes, strict=True) if 4 * size >= max(sizes))


def undecodable_codecs(container: av.container.InputContainer) -> list[str]:
    """Name the codec of each video stream for which FFmpeg has no decoder.

    "unknown (codec tag HIKV / 0x564B4948)", or "evc (codec tag evc1 / 0x31637665)" if only the
    decoder is missing, or "unknown" if the container has no codec tag (Matroska).
    """
    unknown = [stream for stream in _moving_pictures(container) if not _has_decoder(stream)]
    if not unknown:
        return []
    # PyAV gives the tag of a codec context only, and such a stream has none.
    level = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)
    try:
        dump = cast(Any, container).dumps_format()
    finally:
        av.logging.set_level(level)
    # "  Stream #0:0: Video: none (HIKV / 0x564B4948), none, 96x72, 338 kb/s"
    codec_of = dict(re.findall(r"^  Stream #0:(\d+)\b.*?: Video: ([^,\n]+)", dump, re.MULTILINE))
    names = [codec_of.get(str(stream.index), "none") for stream in unknown]
    return [
        re.sub(r"\((.+ / 0x)", r"(codec tag \1", re.sub("^none", "unknown", name)) for name in names
    ]


def _moving_pictures(container: av.container.InputContainer) -> list[av.VideoStream]:
    cover = av.stream.Disposition.attached_pic
    return [stream for stream in container.streams.video if not stream.disposition & cover]


def _has_decoder(stream: av.VideoStream) -> bool:
    context: Any = stream.codec_context  # None, whatever PyAV's types say
    return context is not None


def lacks_memory_for(path: Path) -> bool:
    """Return whether there is no memory for a file like this one, if its sizes are as they should.

    If there is, the demuxer that has run out of it took a damaged size at its word.
    """
    try:
        mmap.mmap(-1, 8 * path.stat().st_size + (1 << 28)).close()
    except (OSError, MemoryError):
        return True
    return False


def demuxed(
    container: av.container.InputContainer, *streams: av.stream.Stream
) -> "Iterator[av.Packet[Any]]":
    """Read the packets of `streams`, by default of all, without PyAV's faults.

    Raises `av.FFmpegError` for a fault of the file.
    """
    try:
        yield from container.demux(*streams)
    except IndexError:
        return  # at the end of a file in which a stream began late
    except MemoryError:
        if lacks_memory_for(Path(container.name)):
            raise
        raise av.InvalidDataError(0, "a packet is larger than all memory, it says") from None


class DecodingError(ValueError):
    """Some packets of a video do not decode; raised after the last frame that does."""

    def __init__(self, number: int, error: av.FFmpegError) -> None:
        self.message = error.strerror or str(error)
        super().__init__(f"decoding fails before frame {number}: {self.message}")


def decoded_frames(
    packets: "Iterable[av.Packet[Any]]", stream: av.VideoStream
) -> Iterator[av.VideoFrame]:
    """Decode the packets of `stream`, then flush the decoder.

    A packet that does not decode costs its own frames, as in a player: the next one is tried, and
    the first error is raised at the end, as `DecodingError`. An empty packet stands for a picture
    that was dropped or is shown again, and holds no frame. It is skipped: a decoder would take it
    for the end of the stream.
    """
    failed: DecodingError | None = None
    number = 0

    def attempt(step: Callable[..., Any], *arguments: Any) -> Any:
        nonlocal failed
        try:
            return step(*arguments)
        except MemoryError:
            raise
        except av.FFmpegError as error:
            failed = failed or DecodingError(number, error)
            return None

    remaining = iter(packets)
    while (packet := attempt(next, remaining, None)) is not None:
        if packet.size and packet.stream.index == stream.index:
            for frame in attempt(stream.decode, packet) or ():
                yield frame
                number += 1
    yield from attempt(stream.decode, None) or ()
    if failed:
        raise failed


def pixel_aspect(stream: av.VideoStream) -> Fraction:
    """Return the width of a pixel over its height, as shown; 1 if the file does not say."""
    aspect = stream.sample_aspect_ratio
    return aspect if aspect is not None and aspect > 0 else Fraction(1)


def rotation(frame: av.VideoFrame) -> int:
    """Return the rotation of the display matrix, counterclockwise: 0, 90, 180 or 270 degrees.

    It follows the mirroring, if `is_mirrored`.
    """
    (x, y), _ = _display_axes(frame)
    sign = -1 if is_mirrored(frame) else 1
    return round(math.degrees(math.atan2(-sign * y, sign * x)) / 90) % 4 * 90


def is_mirrored(frame: av.VideoFrame) -> bool:
    """Return whether the display matrix swaps left and right, before it turns the picture."""
    (a, b), (c, d) = _display_axes(frame)
    return a * d < b * c


def upright(picture: NDArray[np.uint8], frame: av.VideoFrame) -> NDArray[np.uint8]:
    """Show a picture of shape (rows, columns, ...) of a frame as its display matrix says."""
    if is_mirrored(frame):
        picture = picture[:, ::-1]
    return np.rot90(picture, rotation(frame) // 90)


def _display_axes(frame: av.VideoFrame) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return where the display matrix leads one step to the right and one step down, (x, y).

    Its nine numbers are ((a, b, u), (c, d, v), (x, y, w)), the first four in units of 1 / 65536
    (libavutil/display.h).
    """
    side_data = cast(Mapping[Type, Any], frame.side_data)
    matrix = side_data.get(Type.DISPLAYMATRIX)
    if matrix is None:
        return (1, 0), (0, 1)
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix)[:36])
    return (a, b), (c, d)


def frame_crc32(frame: av.VideoFrame) -> int:
    """Return the CRC-32 of every fourth row of a picture, its size, format, colors and rotation.

    Decoding errors affect whole blocks, and no codec predicts blocks of less than four rows of
    luma. All rows would cost a fifth of decoding the frame.
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
    for number, plane in enumerate(frame.planes):
        # The padding between two rows is uninitialized.
        rows = plane_rows(plane)[::4, : _row_bytes(frame, number)]
        crc = zlib.crc32(np.ascontiguousarray(rows).data, crc)
    return crc


def plane_rows(plane: av.video.plane.VideoPlane) -> NDArray[np.uint8]:
    """Return the bytes of a plane, uint8 of shape (rows, bytes), the top row first.

    A palette, whose line size is 0, is one row. A negative line size means that the rows lie in
    memory from bottom to top, as in a bottom-up AVI file.
    """
    if plane.line_size >= 0:
        whole = np.frombuffer(memoryview(plane), np.uint8)
        return whole.reshape(-1, plane.line_size or plane.buffer_size)
    # PyAV's own buffer begins at the top row in this case too, and so ends outside the picture.
    lowest = plane.buffer_ptr - plane.buffer_size - plane.line_size
    memory = (ctypes.c_uint8 * plane.buffer_size).from_address(lowest)
    return np.ctypeslib.as_array(memory).reshape(-1, -plane.line_size)[::-1].copy()


def _row_bytes(frame: av.VideoFrame, plane: int) -> int | None:
    """Return how many bytes of a row hold pixels; None for all, as of a palette."""
    parts = [part for part in frame.format.components if part.plane == plane]
    in_whole_bytes = sum(part.width * -(-part.bits // 8) for part in parts)
    if len(frame.planes) > 1:
        return in_whole_bytes or None
    # Components that share bytes, as those of rgb565 and of one bit per pixel.
    return min(in_whole_bytes, -(-frame.width * frame.format.padded_bits_per_pixel // 8))


def make_convertible(frame: av.VideoFrame) -> str:
    """Tag a frame with a similar color matrix if swscale has not its own; return a remark."""
    if frame.colorspace in _CONVERTIBLE_MATRICES:
        return ""
    unknown = int(frame.colorspace)
    frame.colorspace, name = _similar_matrix(frame)
    return f"matrix_coefficients {unknown} cannot be converted; the colours are read as {name}"


def _similar_matrix(frame: av.VideoFrame) -> tuple[Colorspace, str]:
    if frame.color_primaries == ColorPrimaries.BT2020:
        return Colorspace.BT2020, "BT.2020"
    if frame.color_primaries == ColorPrimaries.BT709:
        return Colorspace.ITU709, "BT.709"
    return Colorspace.ITU601, "BT.601"
