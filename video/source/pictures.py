"""Frames of rejected videos, for a person to look at."""

from pathlib import Path

import numpy as np

from video.clips.frames import DECODING_VERSION, uniform_indices
from video.clips.packs import pack_bytes, pack_key
from video.source.container import decoder_versions
from video.source.decoding import read_frames

SHAPE = (8, 72, 128)  # frames, height, width


def picture_pack(sha256: str) -> str:
    """Return the name of the pack with frames of this content."""
    recipe = {"decoding": DECODING_VERSION, "decoders": decoder_versions(), "shape": SHAPE}
    return f"{pack_key(sha256, recipe)}.npy"


def picture_bytes(video: tuple[Path, int]) -> bytes:
    """Return a pack with a letterboxed clip of a video, given as its path and number of frames.

    Raises if fewer frames decode than that.
    """
    path, num_frames = video
    count, height, width = SHAPE
    indices = uniform_indices(num_frames, count)
    clip = read_frames(path, indices, height=height, width=width, fit="letterbox", timing=None).clip
    return pack_bytes(clip[np.newaxis])
