"""Video files in, facts and exact frames out.

Frames are counted in a sequential decode, never sought: seeking by time or number gives other
frames in many files, and container headers state wrong lengths. One thread decodes a video;
several videos at once use the cores better.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal, cast

import av
import cv2
import numpy as np
from av.video.reformatter import Colorspace, Interpolation
from numpy.typing import NDArray

Fit = Literal["letterbox", "crop"]

DECODING_VERSION = 1
# Raise it when a file may get other facts than before.
INSPECTION_VERSION = 1

# Area averaging keeps small texture from aliasing; the other three make swscale give the same
# bytes on every CPU.
_SCALING = (
    Interpolation.AREA
    | Interpolation.ACCURATE_RND
    | Interpolation.BITEXACT
    | Interpolation.FULL_CHR_H_INT
)

# A header may promise a frame or two that an encoder never wrote; more is a file cut off.
_TOLERATED_MISSING_FRAMES = 2
_TOLERATED_MISSING_SHARE = 0.02

# Their frames lie in other files, which the hash of this one does not cover.
_PLAYLISTS = frozenset({"concat", "dash", "hls"})


@dataclass(frozen=True, kw_only=True)
class VideoFacts:
    """What one full decode found.

    verdict: "ok"; "truncated" (it ends before its header says), "damaged" (frames flagged corrupt,
    or an error although nothing is known to be missing), "unreadable" (no container that FFmpeg
    knows), "no_video" (no picture in it), "too_long" (nothing else is known of it).
    `reason` says more, "" if ok.
    Sizes are in pixels as stored, before `rotation` (0, 90, 180 or 270 degrees counterclockwise)
    is applied; `fps` is the mean rate that the container states, 0.0 if none.
    """

    verdict: str
    reason: str
    sha256: str
    size_bytes: int
    num_frames: int = 0
    declared_frames: int = 0
    fps: float = 0.0
    duration_sec: float = 0.0
    width: int = 0
    height: int = 0
    rotation: int = 0
    codec: str = ""
    pixel_format: str = ""


def decoder_versions() -> dict[str, str]:
    """The versions that decide which bytes a video decodes to."""
    libraries = {name: ".".join(map(str, number)) for name, number in av.library_versions.items()}
    return {"av": av.__version__} | {
        name: libraries[name] for name in ("libavcodec", "libavformat", "libswscale")
    }


def inspect_video(path: Path, max_duration_sec: float = math.inf) -> VideoFacts:
    """Decode every frame of `path` once and report what is in it; never raises for a bad file.

    Decoding stops at `max_duration_sec` of frames. Raises `MemoryError` when there is too little.
    """
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    size_bytes = path.stat().st_size

    def rejected(verdict: str, reason: str) -> VideoFacts:
        return VideoFacts(verdict=verdict, reason=reason, sha256=sha256, size_bytes=size_bytes)

    if size_bytes == 0:
        return rejected("unreadable", "the file is empty")
    try:
        container = av.open(str(path), metadata_errors="replace")
    except MemoryError:
        raise
    except (av.FFmpegError, ValueError) as error:
        return rejected("unreadable", f"no video file: {_message(error)}")
    with container:
        if container.format.name in _PLAYLISTS:
            return rejected("unreadable", "a list of other files; name those in the index")
        stream = _picture_stream(container)
        if stream is None:
            return rejected("no_video", "the file holds no video stream")
        max_frames = max_duration_sec * float(stream.average_rate or math.inf)
        facts = _decode_fully(container, stream, sha256, size_bytes, max_frames)
        return facts or rejected("too_long", f"it lasts more than {max_duration_sec:g} s")


def _decode_fully(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    sha256: str,
    size_bytes: int,
    max_frames: float,
) -> VideoFacts | None:
    """None if there are more than `max_frames`."""
    first: av.VideoFrame | None = None
    num_frames, first_corrupt, error_text, end_sec = 0, -1, "", 0.0
    try:
        for packet in container.demux():
            end_sec = max(end_sec, _end_sec(packet))
            if packet.stream.index != stream.index:
                continue
            for frame in stream.decode(packet):
                first = first or frame
                if frame.is_corrupt and first_corrupt < 0:
                    first_corrupt = num_frames
                num_frames += 1
                if num_frames > max_frames:
                    return None
    except MemoryError:
        raise
    except (av.FFmpegError, ValueError) as error:
        error_text = _message(error)
    declared = stream.frames
    fps = stream.average_rate or Fraction(0)
    missing_sec = _stated_duration_sec(container) - end_sec
    verdict, reason = _verdict(
        num_frames, declared, float(missing_sec * fps), first_corrupt, error_text
    )
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
        rotation=_rotation(first) if first else 0,
        codec=stream.codec_context.name,
        pixel_format=first.format.name if first else "",
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


def read_frames(
    path: Path, indices: Sequence[int], *, height: int, width: int, fit: Fit
) -> NDArray[np.uint8]:
    """Decode the frames at `indices` (ascending, counted from 0, repeats allowed) as RGB.

    Returns uint8 of shape (len(indices), height, width, 3). `letterbox` keeps the whole picture
    and pads with black; `crop` fills the frame and cuts what sticks out on two sides equally.
    Raises `ValueError` if the video ends before the last index.
    """
    clip = np.zeros((len(indices), height, width, 3), np.uint8)
    filled = 0
    with av.open(str(path), metadata_errors="replace") as container:
        stream = _picture_stream(container)
        if stream is None:
            raise ValueError(f"{path}: expected a video stream, found none")
        for number, frame in enumerate(container.decode(stream)):
            if number == indices[filled]:
                clip[filled] = _fitted(frame, height, width, fit)
                filled += 1
                while filled < len(indices) and indices[filled] == number:
                    clip[filled] = clip[filled - 1]
                    filled += 1
            if filled == len(indices):
                return clip
    raise ValueError(f"{path}: expected a frame {indices[filled]}, the video ends before it")


def _fitted(frame: av.VideoFrame, height: int, width: int, fit: Fit) -> NDArray[np.uint8]:
    turns = _rotation(frame) // 90
    upright = (frame.height, frame.width) if turns % 2 == 0 else (frame.width, frame.height)
    choose = min if fit == "letterbox" else max
    scale = choose(Fraction(height, upright[0]), Fraction(width, upright[1]))
    scaled = [max(1, round(side * scale)) for side in upright]
    scaled_height, scaled_width = scaled if turns % 2 == 0 else scaled[::-1]
    picture = np.rot90(_rgb(frame, scaled_height, scaled_width), turns)
    return _centred(picture, height, width)


def _rgb(frame: av.VideoFrame, height: int, width: int) -> NDArray[np.uint8]:
    colorspace = frame.colorspace
    if colorspace in (Colorspace.DEFAULT, 2):  # 2: "unspecified"
        # FFmpeg's own rule for files that do not say: BT.601.
        colorspace = Colorspace.ITU601
    scaled = frame.reformat(
        width=width,
        height=height,
        format="rgb24",
        src_colorspace=colorspace,
        interpolation=_SCALING,
        threads=1,
    )
    return cast(NDArray[np.uint8], scaled.to_ndarray())


def _centred(picture: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Cut what is larger than the frame and pad with black what is smaller, around the centre."""
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


def _picture_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """The first video stream that is no cover picture, decoded by one thread."""
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            stream.thread_type = "NONE"
            stream.codec_context.thread_count = 1
            return stream
    return None


def _rotation(frame: av.VideoFrame) -> int:
    """The display matrix's rotation, counterclockwise, in whole quarter turns."""
    return round(frame.rotation / 90) % 4 * 90


def _message(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
