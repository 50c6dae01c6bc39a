"""Small real videos that differ in how they are encoded, and in nothing that is seen."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


@dataclass(frozen=True, kw_only=True)
class Making:
    """How a file is encoded; `audio_rate` in Hz, 0 for no sound."""

    suffix: str = "mkv"
    encoder: str = "libx264"
    pixel_format: str = "yuv420p"
    fps: int = 25
    num_frames: int = 12
    key_frame_distance: int = 12
    audio_rate: int = 0


def write_video(path: Path, making: Making, *, seed: int) -> Path:
    """Encode a moving picture drawn with `seed`; return the path, with the suffix of the making."""
    path = path.with_suffix(f".{making.suffix}")
    picture = np.random.default_rng(seed).integers(0, 256, (32, 48, 3), np.uint8)
    with av.open(str(path), "w", container_options={"fflags": "+bitexact"}) as container:
        video = container.add_stream(making.encoder, rate=making.fps)
        video.width, video.height, video.pix_fmt = 48, 32, making.pixel_format
        video.gop_size = making.key_frame_distance
        video.codec_context.thread_count = 1
        sound = container.add_stream("aac", rate=making.audio_rate) if making.audio_rate else None
        for number in range(making.num_frames):
            moved = np.roll(picture, number // 4, axis=1)
            frame = av.VideoFrame.from_ndarray(moved, format="rgb24")
            frame = frame.reformat(format=making.pixel_format)
            frame.pts, frame.time_base = number, Fraction(1, making.fps)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if sound is not None:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            silence.sample_rate, silence.pts = making.audio_rate, 0
            container.mux(sound.encode(silence))
            container.mux(sound.encode(None))
    return path
