"""Perceptual hashes of a video that survive re-encoding: the input of duplicates.py.

A hash has 128 bits: whether each cell of a coarse gray picture is darker than its neighbor to
the right, and darker than the one below. As many bits of a mask say where the two differ at all;
a bit without contrast is 0 and is no evidence of agreement. Brightness, contrast, scale, aspect
ratio, codec and rate change few of them. The pictures are the right way up, as the packs hold
them.

A fingerprint holds the hashes of whole pictures, and those of parts of a few of them, the WINDOWS:
what is left of a picture that was cropped or shifted, and where a picture that was framed lies.
"""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from video.splitting.windows import WINDOWS, content_span, window, without_borders

FINGERPRINT_VERSION = 3

Words = NDArray[np.uint64]  # of shape (..., WORDS_PER_HASH)

WORDS_PER_HASH = 4  # of 64 bits: right, below, and the masks of both
WINDOW_PICTURES = 4  # of a video, evenly spread, whose windows are hashed
_CELLS = 8
_BLACK_LEVEL = 24  # of 255; bars are darker, the noise of their encoding included
# Two cells differ from this share of the range of all cells on, within these limits in gray levels:
# an encoding adds noise of up to 1 to a bright picture, and hardly any to a dark one.
_MIN_CONTRAST = 1 / 16
_CONTRAST_LIMITS = (0.1, 1)
_MIN_BITS = 12  # with contrast, of 128; fewer do not tell pictures apart

# Added to the bits of each comparison, half of them differing: few bits prove little.
_PRIOR_BITS = 8


class Hashes(NamedTuple):
    """The hashes that a fingerprint holds.

    whole: the hashes of pictures with contrast, uint64 of shape (pictures, WORDS_PER_HASH).
    windows: of shape (len(WINDOWS), WINDOW_PICTURES, WORDS_PER_HASH); all 0 without contrast.
    """

    whole: Words
    windows: Words


def fingerprint(pictures: NDArray[np.uint8]) -> tuple[int, ...]:
    """Return the words of a video's fingerprint, none if no picture has contrast.

    `pictures` are gray, uint8 of shape (pictures, side, side). Integers throughout (the floats
    hold whole numbers below 2**53), so the same on every machine.
    """
    whole = picture_hashes(_without_bars(pictures))
    whole = whole[whole.any(axis=1)]
    if len(whole) == 0:
        return ()
    content = without_borders(pictures[evenly(len(pictures), WINDOW_PICTURES)])
    parts = pack_bits(np.stack([_bits(window(content, place)) for place in WINDOWS.values()]))
    return tuple(int(word) for word in np.concatenate([whole.ravel(), parts.ravel()]))


def hashes(words: Sequence[int] | NDArray[np.uint64]) -> Hashes:
    """Return the hashes that `fingerprint` has put into its words; there must be some."""
    array = np.asarray(words, np.uint64)
    size = len(WINDOWS) * WINDOW_PICTURES * WORDS_PER_HASH
    if len(array) <= size or len(array) % WORDS_PER_HASH:
        raise ValueError(
            f"fingerprint: expected {size} words of windows behind {WORDS_PER_HASH} for each "
            f"picture, got {len(array)} in all; run load_data again"
        )
    return Hashes(
        whole=array[:-size].reshape(-1, WORDS_PER_HASH),
        windows=array[-size:].reshape(len(WINDOWS), WINDOW_PICTURES, WORDS_PER_HASH),
    )


def evenly(size: int, count: int) -> NDArray[np.intp]:
    """Return `count` evenly spread positions of `size`, some repeated if there are fewer."""
    return np.arange(count) * size // count


def picture_hashes(pictures: NDArray[np.uint8]) -> Words:
    """Hash gray pictures, uint8 of shape (pictures, rows, columns).

    Returns uint64 of shape (pictures, WORDS_PER_HASH), 0 for pictures without contrast.
    """
    return pack_bits(_bits(pictures))


def _bits(pictures: NDArray[np.uint8]) -> NDArray[np.bool_]:
    content = pictures.astype(np.float64)
    rows, columns = content.shape[1:]
    wide = _averaged(content, _CELLS, _CELLS + 1)
    tall = _averaged(content, _CELLS + 1, _CELLS)
    steps = np.stack([wide[:, :, 1:] - wide[:, :, :-1], tall[:, 1:] - tall[:, :-1]], axis=1)
    lowest, highest = (rows * columns * level for level in _CONTRAST_LIMITS)  # the cells are sums
    contrast = (wide.max(axis=(1, 2)) - wide.min(axis=(1, 2))) * _MIN_CONTRAST
    masks = np.abs(steps) > contrast.clip(lowest, highest)[:, None, None, None]
    masks &= masks.sum(axis=(1, 2, 3), keepdims=True) >= _MIN_BITS
    return np.concatenate([(steps > 0) & masks, masks], axis=1)


def hash_distances(one: Words, other: Words) -> NDArray[np.float64]:
    """Return the share of the bits with contrast that differ, of `_PRIOR_BITS` more half.

    A bit with contrast in one of them alone counts half, as in pictures that have nothing to do
    with each other.
    """
    masks, other_masks = one[..., 2:], other[..., 2:]
    differing = _count((one[..., :2] ^ other[..., :2]) & masks & other_masks)
    alone = _count(masks ^ other_masks)
    counted = _count(masks | other_masks)
    distances: NDArray[np.float64] = (differing + alone / 2 + _PRIOR_BITS / 2) / (
        counted + _PRIOR_BITS
    )
    return distances


def _count(words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the number of bits in the last axis."""
    counts: NDArray[np.int64] = np.bitwise_count(words).sum(axis=-1, dtype=np.int64)
    return counts


def pack_bits(bits: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Pack cells, bool of shape (..., 8, 8), into words of shape (...), row by row."""
    rows = bits.reshape(*bits.shape[:-2], _CELLS * _CELLS)
    words = np.packbits(rows, axis=-1).view(">u8")[..., 0]
    return cast(NDArray[np.uint64], words.astype(np.uint64))


def unpack_bits(words: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Return the cells that `pack_bits` has packed, bool of shape (..., 8, 8)."""
    rows = np.unpackbits(words.astype(">u8")[..., None].view(np.uint8), axis=-1)
    return rows.reshape(*words.shape, _CELLS, _CELLS).astype(np.bool_)


def _without_bars(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Cut off the rows and columns at the edges that are black in all pictures."""
    brightest = pictures.max(axis=0)
    top, bottom = content_span(brightest.max(axis=1) > _BLACK_LEVEL)
    left, right = content_span(brightest.max(axis=0) > _BLACK_LEVEL)
    return pictures[:, top:bottom, left:right]


def _averaged(pictures: NDArray[np.float64], rows: int, columns: int) -> NDArray[np.float64]:
    """Sum over `rows` x `columns` cells of equal area, each of as many pixels as the picture has.

    Pixels on the border of two cells count in parts; all are counted `rows * columns` times, so
    that the parts are whole numbers.
    """
    height, width = pictures.shape[1:]
    return _overlaps(rows, height) @ pictures @ _overlaps(columns, width).T


@cache
def _overlaps(cells: int, pixels: int) -> NDArray[np.float64]:
    """Return the overlap of each cell with each pixel on one axis, in 1 / `cells` pixel."""
    cell = np.arange(cells)[:, None] * pixels
    pixel = np.arange(pixels)[None, :] * cells
    overlap = np.minimum(cell + pixels, pixel + cells) - np.maximum(cell, pixel)
    return cast(NDArray[np.float64], np.maximum(overlap, 0).astype(np.float64))
