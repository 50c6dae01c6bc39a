"""Exact frames of a video file, by number.

Frames are counted in a sequential decode, without seeking: seeking by time or number gives other
frames in many files. If a full decode has recorded the frames, those in between are skipped, and
each frame read is checked against the record; on any difference all frames are decoded and counted.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal, cast

import av
import cv2
import numpy as np
from av.video.reformatter import Colorspace, Interpolation
from numpy.typing import NDArray

from video.clips.frames import ClipRecipe
from video.source.container import (
    FrameTiming,
    decoded_frames,
    demuxed,
    frame_crc32,
    make_convertible,
    picture_stream,
    pixel_aspect,
    plane_rows,
    rotation,
    upright,
)
from video.source.dynamic_range import has_high_range, standard_range

Fit = Literal["letterbox", "crop"]

# Area averaging keeps small texture from aliasing; the other three make swscale give the same
# bytes on every CPU.
_SCALING = (
    Interpolation.AREA
    | Interpolation.ACCURATE_RND
    | Interpolation.BITEXACT
    | Interpolation.FULL_CHR_H_INT
)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Decoded frames, and the cost of decoding them.

    clip: uint8 of shape (frames, height, width, 3), RGB.
    num_decoded: number of frames that the decoder returned.
    doubt: the reason to ignore the timing and decode every frame; "" if the timing was used.
    """

    clip: NDArray[np.uint8]
    num_decoded: int
    doubt: str


class _TimingDoubtError(Exception):
    """A file does not decode as recorded."""


def read_clips(
    path: Path, frames: Sequence[Sequence[int]], recipe: ClipRecipe, timing: FrameTiming | None
) -> NDArray[np.uint8]:
    """Decode the frames of several clips in one pass: see `clip_frames` and `read_frames`.

    Shape (clips, frames, height, width, 3).
    """
    indices = sorted({index for clip in frames for index in clip})
    reading = read_frames(
        path,
        indices,
        height=recipe.height,
        width=recipe.width,
        fit=recipe.fit,
        timing=timing,
    )
    return reading.clip[np.searchsorted(indices, frames)]


def read_frames(
    path: Path,
    indices: Sequence[int],
    *,
    height: int,
    width: int,
    fit: Fit,
    timing: FrameTiming | None,
) -> Reading:
    """Decode the frames at `indices` (ascending, counted from 0, repeats allowed) as RGB.

    The clip has len(indices) frames of `height` x `width`. `letterbox` keeps the whole picture and
    pads with black; `crop` fills the frame and cuts the excess equally on both sides. `timing`
    changes the time that it takes and no byte.
    Raises `ValueError` if the video ends before the last index.
    """
    doubt = "no timing was proven"
    if timing is not None:
        try:
            return _read_by_timing(path, indices, height, width, fit, timing)
        except (_TimingDoubtError, av.FFmpegError) as error:
            doubt = str(error)
    clip = np.zeros((len(indices), height, width, 3), np.uint8)
    filled = 0
    with _opened(path) as (container, stream):
        for number, frame in enumerate(decoded_frames(demuxed(container, stream), stream)):
            if number == indices[filled]:
                clip[filled] = _fitted(frame, pixel_aspect(stream), height, width, fit)
                filled += 1
                while filled < len(indices) and indices[filled] == number:
                    clip[filled] = clip[filled - 1]
                    filled += 1
            if filled == len(indices):
                return Reading(clip=clip, num_decoded=number + 1, doubt=doubt)
    raise ValueError(f"{path}: expected a frame {indices[filled]}, the video ends before it")


def fit_frames(
    frames: NDArray[np.uint8], *, height: int, width: int, fit: Fit
) -> NDArray[np.uint8]:
    """Scale RGB frames, uint8 of shape (frames, height, width, 3), as those of a file are.

    Their pixels are square. Those of a file are scaled in its own colors, before they become RGB:
    values may differ by a few.
    """
    one = Fraction(1)
    pictures = [av.VideoFrame.from_ndarray(frame, format="rgb24") for frame in frames]
    return np.stack([_fitted(picture, one, height, width, fit) for picture in pictures])


@contextmanager
def _opened(path: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    with av.open(str(path), metadata_errors="replace") as container:
        stream = picture_stream(container)
        if stream is None:
            raise ValueError(f"{path}: expected a video stream, found none")
        yield container, stream


def _read_by_timing(
    path: Path, indices: Sequence[int], height: int, width: int, fit: Fit, timing: FrameTiming
) -> Reading:
    """Decode few frames beyond `indices`; raise if the file differs from the record."""
    if not len(timing.pts) == len(timing.crc32) > max(indices) or min(indices) < 0:
        raise _TimingDoubtError(
            f"frames {min(indices)} to {max(indices)}, recorded {len(timing.crc32)} of "
            f"{len(timing.pts)}"
        )
    places: dict[int, list[int]] = {}
    for place, index in enumerate(indices):
        places.setdefault(index, []).append(place)
    number_of = {timing.pts[index]: index for index in places}
    clip = np.zeros((len(indices), height, width, 3), np.uint8)
    num_decoded, last = 0, timing.pts[0] - 1
    with _opened(path) as (container, stream):
        if stream.index != timing.stream_index:
            raise _TimingDoubtError(f"stream {stream.index}, recorded {timing.stream_index}")
        for frame in _sparsely_decoded(container, stream, list(number_of), timing.key_pts):
            num_decoded += 1
            if frame.pts is None or frame.pts <= last:
                raise _TimingDoubtError(f"pts {frame.pts} comes after {last}")
            last = frame.pts
            if last in number_of:
                index = number_of[last]
                if frame_crc32(frame) != timing.crc32[index]:
                    raise _TimingDoubtError(f"frame {index} has another CRC-32 than recorded")
                clip[places.pop(index)] = _fitted(frame, pixel_aspect(stream), height, width, fit)
    if places:
        raise _TimingDoubtError(f"frame {min(places)} does not come")
    return Reading(clip=clip, num_decoded=num_decoded, doubt="")


def _sparsely_decoded(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    wanted: Sequence[int],
    key_pts: Sequence[int],
) -> Iterator[av.VideoFrame]:
    """Yield the frames of the pts in `wanted`, and few others.

    Non-reference frames are skipped, and so are whole groups of pictures without a frame in
    `wanted`: their packets are read and dropped. That costs a thousandth of decoding them, and
    unlike a seek it cannot end at another frame.
    """
    context = stream.codec_context
    # Some decoders (dav1d) read skip_frame only when they are opened: these skip none.
    context.open(strict=False)
    unsent = set(wanted)
    passed = -1  # the last key frame sent, as its place in key_pts
    begin_at: int | None = None  # drop packets up to the one of this pts

    def next_start() -> int:
        return bisect_right(key_pts, min(unsent)) - 1

    if next_start() > passed:
        begin_at = key_pts[next_start()]
    place_of = {pts: place for place, pts in enumerate(key_pts)}
    for packet in demuxed(container, stream):
        if not packet.size:
            continue  # as `decoded_frames` does
        if begin_at is not None:
            if packet.pts != begin_at:
                continue
            begin_at = None
        context.skip_frame = "DEFAULT" if packet.pts in unsent else "NONREF"
        yield from stream.decode(packet)
        if packet.pts is None:
            continue
        passed = max(passed, place_of.get(packet.pts, -1))
        if packet.pts not in unsent:
            continue
        unsent.remove(packet.pts)
        if not unsent or next_start() > passed:
            # The frames that the decoder holds back for reordering.
            yield from stream.decode(None)
            if not unsent:
                return
            context.flush_buffers()
            begin_at = key_pts[next_start()]


def _fitted(
    frame: av.VideoFrame, pixel_aspect: Fraction, height: int, width: int, fit: Fit
) -> NDArray[np.uint8]:
    stored = (Fraction(frame.height), frame.width * pixel_aspect)
    turned = rotation(frame) % 180 != 0
    shown = stored[::-1] if turned else stored
    choose = min if fit == "letterbox" else max
    scale = choose(height / shown[0], width / shown[1])
    scaled_height, scaled_width = (max(1, round(side * scale)) for side in stored)
    picture = upright(_rgb(frame, scaled_height, scaled_width), frame)
    return _centered(picture, height, width)


def _rgb(frame: av.VideoFrame, height: int, width: int) -> NDArray[np.uint8]:
    make_convertible(frame)
    colorspace = frame.colorspace
    if colorspace in (Colorspace.DEFAULT, 2):  # 2: "unspecified"
        # FFmpeg's own default: BT.601.
        colorspace = Colorspace.ITU601
    high_range = has_high_range(frame)
    scaled = frame.reformat(
        width=width,
        height=height,
        # swscale gives wrong colors in rgb48 with these flags.
        format="gbrp16le" if high_range else "rgb24",
        src_colorspace=colorspace,
        interpolation=_SCALING,
        threads=1,
    )
    if high_range:
        return standard_range(cast(NDArray[np.uint16], scaled.to_ndarray()), frame)
    return plane_rows(scaled.planes[0])[:, : 3 * width].reshape(height, width, 3)


def _centered(picture: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Crop or pad with black to the size of the frame, around the center."""
    top, left = (max(0, (picture.shape[i] - n) // 2) for i, n in ((0, height), (1, width)))
    picture = picture[top : top + height, left : left + width]
    missing_rows, missing_columns = height - picture.shape[0], width - picture.shape[1]
    return cast(
        NDArray[np.uint8],
        cv2.copyMakeBorder(
            np.ascontiguousarray(picture),
            missing_rows // 2,
            missing_rows - missing_rows // 2,
            missing_columns // 2,
            missing_columns - missing_columns // 2,
            cv2.BORDER_CONSTANT,
            value=(0, 0, 0),
        ),
    )
