"""Perceptual hashes of a video that survive re-encoding: the input of duplicates.py.

A hash has 128 bits: whether each cell of a coarse gray picture is darker than its neighbor to
the right, and darker than the one below. As many bits of a mask say where the two differ at all;
a bit without contrast is 0 and is no evidence of agreement. Brightness, contrast, scale, aspect
ratio, codec and rate change few of them. The pictures are the right way up, as the packs hold
them. Black bars are cut off first, because they would make all pictures with bars alike.
"""

from typing import cast

import numpy as np
from numpy.typing import NDArray

FINGERPRINT_VERSION = 2

WORDS_PER_HASH = 4  # of 64 bits: right, below, and the masks of both
_CELLS = 8
_BLACK_LEVEL = 24  # of 255; bars are darker, the noise of their encoding included
_MIN_SHARE_LEFT = 4  # a quarter of either side; less is no picture with bars but a dark one
_MIN_CONTRAST = 1  # gray levels between two cells; the noise of an encoding is less
_MIN_BITS = 12  # with contrast, of 128; fewer do not tell pictures apart


def picture_hashes(pictures: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Hash the gray pictures of one video, uint8 of shape (pictures, side, side).

    Returns uint64 of shape (those with contrast, WORDS_PER_HASH). Integers throughout (the floats
    hold whole numbers below 2**53), so the same on every machine.
    """
    content = _without_bars(pictures).astype(np.float64)
    rows, columns = content.shape[1:]
    wide = _averaged(content, _CELLS, _CELLS + 1)
    tall = _averaged(content, _CELLS + 1, _CELLS)
    steps = np.stack([wide[:, :, 1:] - wide[:, :, :-1], tall[:, 1:] - tall[:, :-1]], axis=1)
    # The cells are sums over rows * columns pixels.
    masks = np.abs(steps) > _MIN_CONTRAST * rows * columns
    bits = np.concatenate([(steps > 0) & masks, masks], axis=1)
    with_contrast = masks.sum(axis=(1, 2, 3)) >= _MIN_BITS
    return pack_bits(bits[with_contrast])


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
    (top, bottom), (left, right) = (_bright_span(brightest.max(axis=axis)) for axis in (1, 0))
    return pictures[:, top:bottom, left:right]


def _bright_span(levels: NDArray[np.uint8]) -> tuple[int, int]:
    bright = np.flatnonzero(levels > _BLACK_LEVEL)
    if len(bright) == 0 or (bright[-1] + 1 - bright[0]) * _MIN_SHARE_LEFT < len(levels):
        return 0, len(levels)
    return int(bright[0]), int(bright[-1]) + 1


def _averaged(pictures: NDArray[np.float64], rows: int, columns: int) -> NDArray[np.float64]:
    """Sum over `rows` x `columns` cells of equal area, each of as many pixels as the picture has.

    Pixels on the border of two cells count in parts; all are counted `rows * columns` times, so
    that the parts are whole numbers.
    """
    height, width = pictures.shape[1:]
    return _overlaps(rows, height) @ pictures @ _overlaps(columns, width).T


def _overlaps(cells: int, pixels: int) -> NDArray[np.float64]:
    """Return the overlap of each cell with each pixel on one axis, in 1 / `cells` pixel."""
    cell = np.arange(cells)[:, None] * pixels
    pixel = np.arange(pixels)[None, :] * cells
    overlap = np.minimum(cell + pixels, pixel + cells) - np.maximum(cell, pixel)
    return cast(NDArray[np.float64], np.maximum(overlap, 0).astype(np.float64))
