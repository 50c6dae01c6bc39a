"""Encoding of small video files whose bytes depend on the arguments alone."""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.video.reformatter import Interpolation
from numpy.typing import NDArray

CodecName = Literal["h264", "mpeg4", "vp9", "mjpeg"]

# Without these flags swscale takes shortcuts that differ from one CPU to the next.
_EXACT_SCALING = int(
    Interpolation.AREA
    | Interpolation.ACCURATE_RND
    | Interpolation.BITEXACT
    | Interpolation.FULL_CHR_H_INT
)


@dataclass(frozen=True, kw_only=True)
class VideoFormat:
    """One way to store a video: container, encoder and the range of its quantizer."""

    container: str  # also the suffix of the file
    encoder: str
    pixel_format: str = "yuv420p"
    quantizer_option: str
    coarsest: int
    finest: int
    options: dict[str, str]

    def quantizer(self, quality: int) -> int:
        """Return the encoder's own number for a quality of 0 (coarsest) to 100 (finest)."""
        if not 0 <= quality <= 100:
            raise ValueError(f"quality: expected 0 to 100, got {quality}")
        return self.coarsest + (self.finest - self.coarsest) * quality // 100


FORMATS: dict[CodecName, VideoFormat] = {
    "h264": VideoFormat(
        container="mp4",
        encoder="libx264",
        quantizer_option="qp",
        coarsest=28,
        finest=20,
        options={"preset": "veryfast", "x264-params": "threads=1:lookahead-threads=1"},
    ),
    "mpeg4": VideoFormat(
        container="avi",
        encoder="mpeg4",
        quantizer_option="qmin",
        coarsest=7,
        finest=3,
        options={},
    ),
    "vp9": VideoFormat(
        container="webm",
        encoder="libvpx-vp9",
        quantizer_option="crf",
        coarsest=38,
        finest=24,
        options={"deadline": "realtime", "cpu-used": "8", "row-mt": "0", "lag-in-frames": "0"},
    ),
    "mjpeg": VideoFormat(
        container="mov",
        encoder="mjpeg",
        pixel_format="yuvj420p",
        quantizer_option="qmin",
        coarsest=9,
        finest=4,
        options={},
    ),
}


def encode_video(
    path: Path,
    frames: Iterable[NDArray[np.uint8]],
    *,
    codec: CodecName,
    fps: int | Fraction,
    quality: int,
) -> None:
    """Encode frames to `path`, on one thread and without dates, versions or random identifiers.

    frames: at least one, all uint8 of one shape (height, width, 3), RGB, height and width even.
    quality: 0 (coarsest) to 100 (finest), mapped to the range of quantizers of the codec.

    The container follows `codec`, not the suffix of `path`, so that a caller may write to a
    temporary name first. A crash leaves a partial file: making it atomic is up to the caller.
    """
    video_format = FORMATS[codec]
    with av.open(
        str(path), "w", format=video_format.container, container_options={"fflags": "+bitexact"}
    ) as container:
        stream = container.add_stream(
            video_format.encoder, rate=fps, options=_encoder_options(video_format, quality)
        )
        assert isinstance(stream, av.VideoStream)  # for the type checker
        stream.pix_fmt = video_format.pixel_format
        stream.codec_context.thread_count = 1
        stream.codec_context.flags |= av.codec.context.Flags.bitexact
        for index, frame in enumerate(frames):
            if index == 0:
                stream.height, stream.width = frame.shape[:2]
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture = picture.reformat(
                format=video_format.pixel_format, interpolation=_EXACT_SCALING
            )
            picture.pts = index
            picture.time_base = 1 / Fraction(fps)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def _encoder_options(video_format: VideoFormat, quality: int) -> dict[str, str]:
    quantizer = str(video_format.quantizer(quality))
    options = {**video_format.options, video_format.quantizer_option: quantizer}
    if video_format.quantizer_option == "qmin":
        # Equal limits fix the quantizer: with rate control, quality would depend on motion.
        options["qmax"] = quantizer
    if video_format.encoder == "libvpx-vp9":
        options["b"] = "0"
    return options
