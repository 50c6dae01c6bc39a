"""Videos that show the same pictures although their bytes differ, found by their fingerprints."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from video.splitting.candidates import close_pairs
from video.splitting.fingerprints import (
    Words,
    evenly,
    hash_distances,
    hashes,
    pack_bits,
    unpack_bits,
)
from video.splitting.windows import WINDOWS

_PICTURES = 16  # of each video that are compared, evenly spread over those it has
_ASKING = slice(None, None, 2)  # of them, those that look for close ones of other videos

# Two videos are compared if two of their pictures are within this much more than the distance
# asked for.
_CANDIDATE_MARGIN = 0.06

# A window of one picture must be this much closer to another picture than two whole ones, because
# it is compared with more of them: 0.18 for 0.2.
_WINDOW_SHARE = 0.9
_WITHOUT_TURNS = 4  # the first of the orientations, in which windows are compared

_PAIRS_AT_ONCE = 4096

AS_IT_IS = "as it is"
_TURNED_BACK = {"turned by 90": "turned by 270", "turned by 270": "turned by 90"}


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


def near_duplicates(
    fingerprints: Sequence[Sequence[int]] | NDArray[np.object_], *, max_distance: float
) -> list[Pair]:
    """Return the pairs at a distance of at most `max_distance`, by position.

    The distance of two hashes is the number of their bits that differ, over the number of bits
    that have contrast in one of them: 0 for the same pictures, 0.5 for pictures that have nothing
    to do with each other. Each hash of one video is compared with the closest of the other; the
    distance of the videos is the mean, and the smaller one of the two directions, so that a part
    of a video is close to the whole. It is the smallest over the eight ways in which a picture can
    be mirrored and turned by quarters, and as a negative, mirrored or not, because augmentation and
    re-uploads do such things. The WINDOWS of either video are compared with whole pictures of the
    other in the same way, at most nine tenths of `max_distance` apart, without turns by quarters.
    Videos without hashes are in no pair.

    docs/defending_a_score.md says which kinds of copies are found at 0.2, and which are not.

    `fingerprints` are the words of each video, as `video.splitting.fingerprints.fingerprint` gives
    them or as a column of polars' lists does with `to_numpy`.

    Not all pairs are compared, but those that `close_pairs` proposes: of pairs just below the
    distance a few in a thousand are not found.
    """
    seen = [position for position, words in enumerate(fingerprints) if len(words) > 0]
    if len(seen) < 2:
        return []
    found = [hashes(fingerprints[position]) for position in seen]
    whole = np.stack([each.whole[evenly(len(each.whole), _PICTURES)] for each in found], axis=1)
    windows = np.concatenate([each.windows for each in found]).swapaxes(0, 1)
    closest: dict[tuple[int, int], Pair] = {}
    for pairs in (_alike(whole, max_distance), _alike_in_part(windows, whole, max_distance)):
        found_before = closest.copy()
        for pair in pairs:
            key = pair.first, pair.second
            known = closest.setdefault(key, pair)
            if key not in found_before and pair.distance < known.distance:
                closest[key] = pair
    return [
        replace(pair, first=seen[pair.first], second=seen[pair.second])
        for _, pair in sorted(closest.items())
    ]


def _alike(whole: Words, max_distance: float) -> Iterator[Pair]:
    for one, other, distance, shown in _close(whole, whole, orientations(whole), max_distance):
        if one < other:
            yield Pair(first=one, second=other, distance=distance, shown=shown)
        else:
            back = _TURNED_BACK.get(shown, shown)
            yield Pair(first=other, second=one, distance=distance, shown=back)


def _alike_in_part(windows: Words, whole: Words, max_distance: float) -> Iterator[Pair]:
    names = list(WINDOWS)
    shown_ways = itertools.islice(orientations(whole), _WITHOUT_TURNS)
    for view, other, distance, shown in _close(
        windows, whole, shown_ways, _WINDOW_SHARE * max_distance
    ):
        one, name = view // len(names), names[view % len(names)]
        yield Pair(
            first=min(one, other),
            second=max(one, other),
            distance=distance,
            shown=f"{name} of one" + f", {shown}" * (shown != AS_IT_IS),
        )


def _close(
    views: Words, whole: Words, ways: Iterable[tuple[str, Words]], max_distance: float
) -> Iterator[tuple[int, int, float, str]]:
    """Yield each view and video of others that are close, their distance, and how that is shown.

    `views` are of shape (pictures, videos * any, WORDS_PER_HASH), `whole` without the any.
    """
    num_videos = whole.shape[1]
    views_per_video = views.shape[1] // num_videos
    names, turned = zip(*ways, strict=True)
    others = np.concatenate(turned, axis=1)
    words, owners = _flat(views)
    asking, askers = _flat(others[_ASKING])
    seen = words.any(axis=1)
    asker, view = close_pairs(
        words[seen],
        owners[seen],
        asking,
        askers,
        may_pair=lambda asker, view: asker % num_videos != view // views_per_video,
        max_distance=max_distance + _CANDIDATE_MARGIN,
    )
    for start in range(0, len(asker), _PAIRS_AT_ONCE):
        batch = slice(start, start + _PAIRS_AT_ONCE)
        distances = _distances(views[:, view[batch]], others[:, asker[batch]])
        for index in np.flatnonzero(distances <= max_distance):
            way, video = divmod(int(asker[start + index]), num_videos)
            yield int(view[start + index]), video, float(distances[index]), names[way]


def _flat(views: Words) -> tuple[Words, NDArray[np.int64]]:
    """Return hashes of shape (pictures, views, WORDS_PER_HASH) one by one, and their views."""
    words = views.swapaxes(0, 1).reshape(-1, views.shape[2])
    return words, np.repeat(np.arange(views.shape[1]), len(views))


def orientations(words: Words) -> Iterator[tuple[str, Words]]:
    """Yield the hashes of the same pictures mirrored and turned, each with its name."""
    for turns in range(4):
        for mirrored in (False, True):
            shown = words
            for _ in range(turns):
                shown = _mirrored(_transposed(shown))
            if mirrored:
                shown = _mirrored(shown)
            names = [f"turned by {90 * turns}"] * (turns > 0) + ["mirrored"] * mirrored
            yield ", ".join(names) or AS_IT_IS, shown
            if turns == 0:
                yield ", ".join([*names, "negative"]), _inverted(shown, (0, 1))


def _mirrored(words: Words) -> Words:
    """Swap left and right: darker than the neighbor to the right becomes brighter than it."""
    cells = unpack_bits(words)[..., ::-1]
    return _inverted(pack_bits(cells), (0,))


def _transposed(words: Words) -> Words:
    """Swap rows and columns, and with them what is to the right and what is below."""
    cells = np.swapaxes(unpack_bits(words), -1, -2)
    return pack_bits(cells[..., [1, 0, 3, 2], :, :])


def _inverted(words: Words, which: tuple[int, ...]) -> Words:
    """Invert the bits of `which`, 0 for right and 1 for below, where there is contrast."""
    inverted = words.copy()
    for word in which:
        inverted[..., word] ^= words[..., word + 2]
    return inverted


def _distances(one: Words, other: Words) -> NDArray[np.float64]:
    """Return the distances of the videos at equal positions of `one` and `other`."""
    there = np.full(one.shape[:2], np.inf)
    back = np.full(other.shape[:2], np.inf)
    for i, first in enumerate(one):
        for j, second in enumerate(other):
            apart = hash_distances(first, second)
            np.minimum(there[i], apart, out=there[i])
            np.minimum(back[j], apart, out=back[j])
    distances: NDArray[np.float64] = np.minimum(there.mean(axis=0), back.mean(axis=0))
    return distances.round(9)  # so that the order of summation decides on no pair
