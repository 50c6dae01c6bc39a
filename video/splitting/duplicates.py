"""Videos that show the same pictures although their bytes differ, found by their fingerprints."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from video.splitting.fingerprints import WORDS_PER_HASH, pack_bits, unpack_bits

Hashes = NDArray[np.uint64]  # of shape (hashes of a video, videos, WORDS_PER_HASH)

_HASHES = 16  # of each video that are compared, evenly spread over those it has

# Added to the bits of each comparison, half of them differing: few bits prove little.
_PRIOR_BITS = 8

# The first look compares every fourth hash of a video with every second of the other, by the first
# word alone, and lets pass what is within this much more than the distance asked for.
_PROBES, _PROBED = slice(None, None, 4), slice(None, None, 2)
_COARSE_MARGIN = 0.14
_BLOCK = 256  # videos a side: the intermediate results of a block fit in the L2 cache
_PAIRS_AT_ONCE = 4096

AS_IT_IS = "as it is"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two videos by their positions, `first` < `second`.

    distance: how far apart they are, 0 to 1.
    shown: how the second has to be shown to look like the first, a name of `orientations`.
    """

    first: int
    second: int
    distance: float
    shown: str = AS_IT_IS


def near_duplicates(fingerprints: Sequence[Sequence[int]], *, max_distance: float) -> list[Pair]:
    """Return the pairs at a distance of at most `max_distance`, by position.

    The distance of two hashes is the number of their bits that differ, over the number of bits
    that have contrast in one of them: 0 for the same pictures, 0.5 for pictures that have nothing
    to do with each other. Each hash of one video is compared with the closest of the other; the
    distance of the videos is the mean, and the smaller one of the two directions, so that a part
    of a video is close to the whole. It is the smallest over the eight ways in which a picture can
    be mirrored and turned by quarters, and as a negative, mirrored or not, because augmentation and
    re-uploads do such things. Videos without hashes are in no pair.

    docs/defending_a_score.md says which kinds of copies are found at 0.2, and which are not.

    Cost: grows with the square of the number of videos.
    """
    seen = [position for position, words in enumerate(fingerprints) if len(words) > 0]
    if len(seen) < 2:
        return []
    hashes = np.stack([_evenly(fingerprints[position]) for position in seen], axis=1)
    closest: dict[tuple[int, int], Pair] = {}
    for shown, other in orientations(hashes):
        for first, second in _candidates(hashes, other, max_distance + _COARSE_MARGIN):
            distances = _distances(hashes[:, first], other[:, second])
            for index in np.flatnonzero(distances <= max_distance):
                found = Pair(
                    first=seen[first[index]],
                    second=seen[second[index]],
                    distance=float(distances[index]),
                    shown=shown,
                )
                known = closest.setdefault((found.first, found.second), found)
                if found.distance < known.distance:
                    closest[found.first, found.second] = found
    return [closest[key] for key in sorted(closest)]


def orientations(hashes: Hashes) -> Iterator[tuple[str, Hashes]]:
    """Yield the hashes of the same pictures mirrored and turned, each with its name."""
    for turns in range(4):
        for mirrored in (False, True):
            shown = hashes
            for _ in range(turns):
                shown = _mirrored(_transposed(shown))
            if mirrored:
                shown = _mirrored(shown)
            words = [f"turned by {90 * turns}"] * (turns > 0) + ["mirrored"] * mirrored
            yield ", ".join(words) or AS_IT_IS, shown
            if turns == 0:
                yield ", ".join([*words, "negative"]), _inverted(shown, (0, 1))


def _mirrored(hashes: Hashes) -> Hashes:
    """Swap left and right: darker than the neighbor to the right becomes brighter than it."""
    cells = unpack_bits(hashes)[..., ::-1]
    return _inverted(pack_bits(cells), (0,))


def _transposed(hashes: Hashes) -> Hashes:
    """Swap rows and columns, and with them what is to the right and what is below."""
    cells = np.swapaxes(unpack_bits(hashes), -1, -2)
    return pack_bits(cells[..., [1, 0, 3, 2], :, :])


def _inverted(hashes: Hashes, words: tuple[int, ...]) -> Hashes:
    """Invert the bits of `words`, 0 for right and 1 for below, where there is contrast."""
    inverted = hashes.copy()
    for word in words:
        inverted[..., word] ^= hashes[..., word + 2]
    return inverted


def _evenly(words: Sequence[int]) -> NDArray[np.uint64]:
    """Return exactly `_HASHES` hashes of a fingerprint, repeating some if it has fewer."""
    hashes = np.array(words, np.uint64).reshape(-1, WORDS_PER_HASH)
    return hashes[np.arange(_HASHES) * len(hashes) // _HASHES]


def _candidates(
    one: Hashes, other: Hashes, max_distance: float
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Yield positions of pairs that a coarse comparison finds close, first < second, in batches."""
    num_videos = one.shape[1]
    starts = range(0, num_videos, _BLOCK)
    for top in starts:
        for left in starts[top // _BLOCK :]:
            rows, columns = one[:, top : top + _BLOCK, 0], other[:, left : left + _BLOCK, 0]
            there = _coarse(rows[_PROBES], columns[_PROBED])
            back = _coarse(columns[_PROBES], rows[_PROBED]).T
            first, second = np.nonzero(np.minimum(there, back) <= max_distance)
            first, second = first + top, second + left
            once = first < second
            first, second = first[once], second[once]
            for start in range(0, len(first), _PAIRS_AT_ONCE):
                batch = slice(start, start + _PAIRS_AT_ONCE)
                yield first[batch], second[batch]


def _coarse(probes: NDArray[np.uint64], words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Return a lower estimate of the distances, of shape (videos of `probes`, of `words`)."""
    bits = np.zeros((probes.shape[1], words.shape[1]), np.uint16)
    for probe in probes:
        nearest = np.full(bits.shape, 64, np.uint8)
        for word in words:
            np.minimum(nearest, np.bitwise_count(probe[:, None] ^ word[None, :]), out=nearest)
        bits += nearest
    return bits / (64 * len(probes))


def _distances(one: Hashes, other: Hashes) -> NDArray[np.float64]:
    """Return the distances of the videos at equal positions of `one` and `other`."""
    there = np.full(one.shape[:2], np.inf)
    back = np.full(other.shape[:2], np.inf)
    for i, first in enumerate(one):
        for j, second in enumerate(other):
            apart = _hash_distances(first, second)
            np.minimum(there[i], apart, out=there[i])
            np.minimum(back[j], apart, out=back[j])
    return cast(NDArray[np.float64], np.minimum(there.mean(axis=0), back.mean(axis=0)))


def _hash_distances(one: Hashes, other: Hashes) -> NDArray[np.float64]:
    """Return the share of the bits with contrast that differ, of `_PRIOR_BITS` more half.

    A bit without contrast is 0, and so differs from half of those with contrast, as those of
    unrelated pictures do.
    """
    differing = np.bitwise_count(one[:, :2] ^ other[:, :2]).sum(axis=1, dtype=np.int64)
    counted = np.bitwise_count(one[:, 2:] | other[:, 2:]).sum(axis=1, dtype=np.int64)
    return cast(NDArray[np.float64], (differing + _PRIOR_BITS / 2) / (counted + _PRIOR_BITS))
