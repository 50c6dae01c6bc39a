"""Near-duplicates: videos with the same pictures but other bytes, found by fingerprint."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from video.splitting.fingerprints import WORDS_PER_HASH

_HASHES = 16  # of each video that are compared, evenly spread over those it has
_HASH_BITS = 64 * WORDS_PER_HASH

# The coarse pass compares the first of the two words of each hash, and keeps the pairs within this
# much more than `max_distance`.
_COARSE_MARGIN = 0.1
_BLOCK = 256  # videos per side: the intermediate results of a block fit in the L2 cache
_PAIRS_AT_ONCE = 8192


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two videos by their positions, `first` < `second`, and how far apart they are, 0 to 1."""

    first: int
    second: int
    distance: float


def near_duplicates(fingerprints: Sequence[Sequence[int]], *, max_distance: float) -> list[Pair]:
    """Find the pairs within `max_distance`, by position; videos without hashes are in none.

    Every hash of one video is compared with the closest hash of the other. The distance is the mean
    share of bits that differ, in the direction where it is smaller, so that a part of a video is
    close to the whole. 0 means the same pictures, 0.5 unrelated ones.

    Measured at 0.2 (the tests repeat part of it). Found: all 72 pairs of the surveillance clips
    whose dHashes of frames 1, 10, 20 and 30 differ by 6 of 64 bits in the mean, the furthest at
    0.17; of 100 of these clips, each transformed in turn, all that were re-encoded
    (H.264 crf 35), halved, brightened by a quarter, squeezed, letterboxed, thinned to 0.6 of the
    rate, without the first fifth, or cropped by 2 % at each edge, 96 of those cropped by 5 %, 6 by
    10 %, 1 mirrored; of the sample's pairs of authentic versions of one scene (all of the above at
    once, and shifted) 98 %, so that every scene holds together. False: none of 43,237 pairs of
    clips of different groups (the closest at 0.25, one in 10,000 below 0.28) and of 28,314 pairs
    of different scenes (0.33), which extrapolates to a few in the 18 million pairs of 6,000
    videos. Not found: copies mirrored, turned, with a wide frame of pictures around them, and
    short pieces of long videos with many cuts, whose hashes lie minutes apart.

    Cost: 5 s on one core for 6,000 videos, growing with the square.
    """
    seen = [position for position, words in enumerate(fingerprints) if len(words) > 0]
    if len(seen) < 2:
        return []
    hashes = np.stack([_evenly(fingerprints[position]) for position in seen], axis=1)
    pairs = [
        Pair(first=seen[one], second=seen[other], distance=float(distance))
        for first, second in _candidates(hashes, max_distance + _COARSE_MARGIN)
        for one, other, distance in zip(
            first, second, _distances(hashes, first, second), strict=True
        )
        if distance <= max_distance
    ]
    return sorted(pairs, key=lambda pair: (pair.first, pair.second))


def _evenly(words: Sequence[int]) -> NDArray[np.uint64]:
    """Return `_HASHES` evenly spaced hashes of a fingerprint; fewer are repeated."""
    hashes = np.array(words, np.uint64).reshape(-1, WORDS_PER_HASH)
    return hashes[np.arange(_HASHES) * len(hashes) // _HASHES]


def _candidates(
    hashes: NDArray[np.uint64], max_distance: float
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Yield the positions of the pairs that pass the coarse comparison, in batches."""
    coarse = np.ascontiguousarray(hashes[:, :, 0])
    num_hashes, num_videos = coarse.shape
    max_bits = max_distance * num_hashes * 64
    starts = range(0, num_videos, _BLOCK)
    for top in starts:
        for left in starts[top // _BLOCK :]:
            rows, columns = coarse[:, top : top + _BLOCK], coarse[:, left : left + _BLOCK]
            shape = (num_hashes, rows.shape[1], columns.shape[1])
            nearest = [np.full(shape, 64, np.uint8) for _ in range(2)]
            for i in range(num_hashes):
                for j in range(num_hashes):
                    differing = np.bitwise_count(rows[i][:, None] ^ columns[j][None, :])
                    np.minimum(nearest[0][i], differing, out=nearest[0][i])
                    np.minimum(nearest[1][j], differing, out=nearest[1][j])
            bits = np.minimum(*(bits.sum(axis=0, dtype=np.uint16) for bits in nearest))
            first, second = np.nonzero(bits <= max_bits)
            first, second = first + top, second + left
            once = first < second
            first, second = first[once], second[once]
            for start in range(0, len(first), _PAIRS_AT_ONCE):
                batch = slice(start, start + _PAIRS_AT_ONCE)
                yield first[batch], second[batch]


def _distances(
    hashes: NDArray[np.uint64], first: NDArray[np.intp], second: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return the distances of the pairs of videos at the positions `first` and `second`."""
    one, other = hashes[:, first], hashes[:, second]
    nearest = [np.full((_HASHES, len(first)), _HASH_BITS, np.uint8) for _ in range(2)]
    for i in range(_HASHES):
        for j in range(_HASHES):
            differing = np.bitwise_count(one[i] ^ other[j]).sum(axis=1, dtype=np.uint8)
            np.minimum(nearest[0][i], differing, out=nearest[0][i])
            np.minimum(nearest[1][j], differing, out=nearest[1][j])
    bits = np.minimum(*(bits.sum(axis=0, dtype=np.int64) for bits in nearest))
    return cast(NDArray[np.float64], bits / (_HASHES * _HASH_BITS))
