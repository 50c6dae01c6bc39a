"""Packs: the clips of one video in one file, named by everything that made its bytes.

A pack is a `.npy` file, uint8 of shape (clips, frames, height, width, 3). Its key holds the
video's content, the parameters that matter, the transform's version and the decoder's, and
nothing else: a changed learning rate or description leaves every clip where it is.
"""

import hashlib
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

Clips = NDArray[np.uint8]


def uniform_indices(num_frames: int, count: int) -> list[int]:
    """The frames at the centres of `count` equal segments of a video of `num_frames` frames.

    Ascending, in [0, num_frames); a video shorter than `count` repeats frames.
    """
    return [(2 * i + 1) * num_frames // (2 * count) for i in range(count)]


def pack_key(video_sha256: str, recipe: Mapping[str, Any]) -> str:
    """40 hex digits that name the pack which `recipe` (plain values) makes of the video."""
    document = json.dumps([video_sha256, recipe], sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(document.encode(), digest_size=20).hexdigest()


def pack_bytes(clips: Clips) -> bytes:
    """The pack's file content for uint8 clips of shape (clips, frames, height, width, 3)."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(clips), allow_pickle=False)
    return buffer.getvalue()


def pack_rows(name: str, clips: Clips) -> pl.DataFrame:
    """Where the clips of the pack `name` lie, a row a clip.

    Columns: pack, clip (number in the pack), offset_bytes, frames, height, width, dtype,
    clip_sha256 (of the clip's bytes alone).
    """
    header_bytes = len(pack_bytes(clips)) - clips.nbytes
    clip_bytes = clips[0].nbytes
    return pl.DataFrame(
        [
            {
                "pack": name,
                "clip": number,
                "offset_bytes": header_bytes + number * clip_bytes,
                "frames": clip.shape[0],
                "height": clip.shape[1],
                "width": clip.shape[2],
                "dtype": "uint8",
                "clip_sha256": hashlib.sha256(clip.tobytes()).hexdigest(),
            }
            for number, clip in enumerate(clips)
        ]
    )


def read_pack(path: Path) -> Clips:
    """All clips of a pack."""
    return cast(Clips, np.load(path, allow_pickle=False))


def read_clip_into(target: Clips, path: Path, offset_bytes: int) -> None:
    """Fill the contiguous uint8 array `target` from the pack at `path`, without a copy between.

    Raises `ValueError` if the file ends before the clip does.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        num_bytes = os.preadv(descriptor, [target.data.cast("B")], offset_bytes)
    finally:
        os.close(descriptor)
    if num_bytes != target.nbytes:
        raise ValueError(
            f"{path}: expected {target.nbytes} bytes of a clip at {offset_bytes}, got "
            f"{num_bytes}; remove the pack and run its stage again"
        )
