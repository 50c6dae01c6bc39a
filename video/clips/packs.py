"""Packs: the clips of one video in one file, named by everything that determines its bytes.

A pack is a `.npy` file, uint8 of shape (clips, frames, height, width, 3). Its key covers the
video's content, the relevant parameters and the versions of transform and decoder, and nothing
else: a changed learning rate or description invalidates no clip.
"""

import hashlib
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

Clips = NDArray[np.uint8]

PACK_NAME = r"[0-9a-f]{40}\.npy"  # of a file named by `pack_key`

# --force: a plain `dvc repro` would check out again an object that is damaged in DVC's cache.
MAKE_AGAIN = (
    "make it again: dvc repro --force --single-item create_dataset, or generate_augmentations for "
    "an augmented clip"
)


class PackError(ValueError):
    """A pack, or the table of its clips, is not what its stage wrote."""


def pack_key(video_sha256: str, recipe: Mapping[str, Any]) -> str:
    """Return 40 hex digits that name the pack which `recipe` (plain values) makes of the video."""
    document = json.dumps([video_sha256, recipe], sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(document.encode(), digest_size=20).hexdigest()


def pack_bytes(clips: Clips) -> bytes:
    """Return the pack's bytes for uint8 clips of shape (clips, frames, height, width, 3)."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(clips), allow_pickle=False)
    return buffer.getvalue()


def pack_rows(name: str, clips: Clips) -> pl.DataFrame:
    """Return the place of each clip in the pack `name`, one row per clip.

    Columns: pack, clip (number in the pack), offset_bytes, frames, height, width, dtype,
    clip_sha256 (of the clip's bytes alone).
    """
    header_bytes = len(_header(clips.shape))
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
                "clip_sha256": hashlib.sha256(np.ascontiguousarray(clip).data).hexdigest(),
            }
            for number, clip in enumerate(clips)
        ]
    )


def _header(shape: Sequence[int]) -> bytes:
    """Return the first bytes of a pack of this shape, up to its first clip."""
    buffer = io.BytesIO()
    description = {"descr": "|u1", "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(buffer, description)
    return buffer.getvalue()


def parse_pack(content: bytes, shape: Sequence[int]) -> Clips | None:
    """Return a pack's clips; None if `content` is no pack of uint8 clips of this shape."""
    header_bytes = len(content) - math.prod(shape)
    try:
        # A view, so that large packs are not copied.
        clips = np.frombuffer(content, np.uint8, offset=max(header_bytes, 0)).reshape(shape)
    except ValueError:
        return None
    return clips if content[:header_bytes] == _header(shape) else None


def check_clip(clip: Clips, path: Path, sha256: str) -> None:
    """Raise `PackError` unless the bytes of `clip`, read from `path`, have this sha256."""
    actual = hashlib.sha256(np.ascontiguousarray(clip).data).hexdigest()
    if actual != sha256:
        raise PackError(
            f"{path}: expected a clip with sha256 {sha256}, got {actual}; the pack has changed "
            f"since it was made: {MAKE_AGAIN}"
        )


def read_clip_into(target: Clips, path: Path, offset_bytes: int) -> None:
    """Read into the contiguous uint8 array `target` from the pack at `path`, without a copy.

    Raises `PackError` if the file is missing or ends before the clip does.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        raise PackError(f"{path}: expected a pack, got no file; {MAKE_AGAIN}") from None
    try:
        num_bytes = os.preadv(descriptor, [target.data.cast("B")], offset_bytes)
    finally:
        os.close(descriptor)
    if num_bytes != target.nbytes:
        raise PackError(
            f"{path}: expected {target.nbytes} bytes of a clip at {offset_bytes}, got "
            f"{num_bytes}; {MAKE_AGAIN}"
        )
