"""Hashes that are probably close, found through tables of short keys instead of all pairs.

A key holds the signs of some projections of a hash, and equal keys lie at one place of a table. A
hash is looked up under its own key and under those in which the signs that are least certain, for
the projections are closest to zero, are changed: multi-probe locality-sensitive hashing (Lv,
Josephson, Wang, Charikar and Li, VLDB 2007). A hash holds the signs of a picture's gradients, so
the projections are those onto the gradients of low frequencies, in which a picture and its copy
agree longest. All sums are of whole numbers, so that every machine finds the same.
"""

import heapq
import random
from collections.abc import Callable, Iterator
from functools import cache
from typing import cast

import numpy as np
from numpy.typing import NDArray

from video.splitting.fingerprints import Words, hash_distances, unpack_bits

_KEY_BITS = 21
_TABLES = 10
_PROBES = 64  # keys under which a hash is looked up in each table
_FREQUENCIES = 32

_QUERIES_AT_ONCE = 4096
_PAIRS_AT_ONCE = 1 << 20

Integers = NDArray[np.int64]
Floats = NDArray[np.float32]  # whole numbers below 2**24, so exact


def close_pairs(
    words: Words,
    owners: Integers,
    asking: Words,
    askers: Integers,
    *,
    may_pair: Callable[[Integers, Integers], NDArray[np.bool_]],
    max_distance: float,
) -> tuple[Integers, Integers]:
    """Return the pairs of an asker and an owner with hashes within `max_distance`, each once.

    `words` are the hashes of `owners`, `asking` those of `askers`: uint64 of shape (hashes,
    WORDS_PER_HASH) and whole numbers from 0. `may_pair` says which askers and owners are of
    interest. Most of the close hashes are found, and nearly all pairs with several of them.

    Memory: about 100 bytes per hash, and 40 MB.
    """
    if len(words) == 0 or len(asking) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    num_owners = int(owners.max()) + 1
    strengths, strengths_asking = _strengths(words), _strengths(asking)
    found = [np.zeros(0, np.int64)]
    for mix in _mixes():
        table = _Table(_keys(strengths, mix), owners)
        for start in range(0, len(asking), _QUERIES_AT_ONCE):
            keys = _probed(strengths_asking[start : start + _QUERIES_AT_ONCE], mix)
            for query, entry in table.look_up(keys):
                asker, owner = askers[query + start], owners[entry]
                wanted = may_pair(asker, owner)
                query, entry = query[wanted] + start, entry[wanted]
                close = hash_distances(asking[query], words[entry]) <= max_distance
                found.append(np.unique(askers[query[close]] * num_owners + owners[entry[close]]))
    pairs = np.unique(np.concatenate(found))
    return pairs // num_owners, pairs % num_owners


class _Table:
    """One table: the hashes by their keys, each key of an owner once."""

    def __init__(self, keys: Integers, owners: Integers) -> None:
        _, self._entries = np.unique(keys * (int(owners.max()) + 1) + owners, return_index=True)
        present, starts, sizes = np.unique(
            keys[self._entries], return_index=True, return_counts=True
        )
        self._starts, self._sizes = (np.zeros(1 << _KEY_BITS, np.int32) for _ in range(2))
        self._starts[present], self._sizes[present] = starts, sizes
        # Small enough for a cache near the processor, which most keys do not get past.
        self._known = np.zeros(1 << _KEY_BITS, np.bool_)
        self._known[present] = True

    def look_up(self, keys: Integers) -> Iterator[tuple[Integers, Integers]]:
        """Yield the positions of hashes asked about and found, for keys of shape (hashes, any)."""
        asked, probe = np.nonzero(self._known[keys])
        starts, sizes = (each[keys[asked, probe]] for each in (self._starts, self._sizes))
        totals = sizes.cumsum(dtype=np.int64)
        first = 0
        while first < len(totals):
            before = totals[first] - sizes[first]
            last = max(first + 1, int(np.searchsorted(totals, before + _PAIRS_AT_ONCE, "right")))
            part = slice(first, last)
            ends = totals[part] - before
            within = np.arange(ends[-1]) - np.repeat(ends - sizes[part], sizes[part])
            places = np.repeat(starts[part], sizes[part]) + within
            yield np.repeat(asked[part], sizes[part]), self._entries[places]
            first = last


def _strengths(words: Words) -> NDArray[np.int16]:
    """Return the projections of hashes onto the lowest frequencies, of shape (hashes, them)."""
    strengths = np.empty((len(words), _FREQUENCIES), np.int16)
    for start in range(0, len(words), _QUERIES_AT_ONCE):
        part = slice(start, start + _QUERIES_AT_ONCE)
        strengths[part] = _signed(words[part]) @ _gradients().T
    return strengths


def _signed(words: Words) -> Floats:
    """Return 1 for darker, -1 for brighter than the neighbor, 0 without contrast."""
    cells = unpack_bits(words).reshape(len(words), 2, -1).astype(np.float32)
    signed: Floats = (2 * cells[:, 0] - 1) * cells[:, 1]
    return signed


def _keys(strengths: NDArray[np.int16], mix: Floats) -> Integers:
    return np.concatenate(
        [
            _signs(strengths[start : start + _QUERIES_AT_ONCE] @ mix.T)
            for start in range(0, len(strengths), _QUERIES_AT_ONCE)
        ]
    )


def _signs(mixed: Floats) -> Integers:
    """Return numbers with the signs of `mixed`, of shape (hashes, _KEY_BITS), as their bits."""
    values = (2.0 ** np.arange(_KEY_BITS)).astype(np.float32)
    return cast(Integers, ((mixed > 0).astype(np.float32) @ values).astype(np.int64))


def _probed(strengths: NDArray[np.int16], mix: Floats) -> Integers:
    """Return the keys to look up for each hash, of shape (hashes, _PROBES), its own first."""
    mixed = strengths @ mix.T
    ranked = np.sort(np.abs(mixed).astype(np.int32) * 32 + np.arange(_KEY_BITS, dtype=np.int32))
    weakest = ranked % 32  # a sort of whole numbers, faster than argsort
    changes = (2.0**weakest).astype(np.float32) @ _changes().T
    return cast(Integers, _signs(mixed)[:, None] ^ changes.astype(np.int64))


@cache
def _changes() -> Floats:
    """Return which signs each probe changes, of shape (_PROBES, _KEY_BITS), the weakest first.

    These are the sets of ranks with the smallest sums of expected squares, j (j + 1) for the j-th
    weakest (section 4.5 of the paper).
    """
    cost = [(rank + 1) * (rank + 2) for rank in range(_KEY_BITS)]
    sets: list[tuple[int, ...]] = [()]
    heap: list[tuple[int, tuple[int, ...]]] = [(cost[0], (0,))]
    while len(sets) < _PROBES:
        total, ranks = heapq.heappop(heap)
        sets.append(ranks)
        last = ranks[-1] + 1
        if last < _KEY_BITS:
            heapq.heappush(heap, (total + cost[last], (*ranks, last)))
            heapq.heappush(heap, (total + cost[last] - cost[last - 1], (*ranks[:-1], last)))
    return np.array([[rank in ranks for rank in range(_KEY_BITS)] for ranks in sets], np.float32)


@cache
def _mixes() -> list[Floats]:
    """Return what each table's key bits are of the frequencies: themselves, then mixtures.

    Of shape (_KEY_BITS, _FREQUENCIES) each. The mixtures are rows of a Hadamard matrix, with signs
    and order by a generator whose numbers Python's documentation promises for all versions.
    """
    hadamard = np.ones((1, 1), np.float32)
    while len(hadamard) < _FREQUENCIES:
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    mixes = [np.eye(_KEY_BITS, _FREQUENCIES, dtype=np.float32)]
    for table in range(1, _TABLES):
        generator = random.Random(table)
        signs = np.array([1 if generator.random() < 0.5 else -1 for _ in range(_FREQUENCIES)])
        order = sorted(range(_FREQUENCIES), key=lambda _: generator.random())
        mixes.append((hadamard * signs)[order[:_KEY_BITS]].astype(np.float32))
    return mixes


@cache
def _gradients() -> Floats:
    """Return the gradients of the lowest cosines, rounded, of shape (_FREQUENCIES, 2 * 8 * 8)."""
    lowest = sorted(
        ((u, v) for u in range(8) for v in range(8) if u or v),
        key=lambda each: (each[0] ** 2 + each[1] ** 2, each),
    )[:_FREQUENCIES]
    centers, edges = (np.arange(8) + 0.5) / 8, (np.arange(8) + 1) / 9
    patterns = np.array(
        [
            [
                v * np.outer(np.cos(np.pi * u * centers), np.sin(np.pi * v * edges)),
                u * np.outer(np.sin(np.pi * u * edges), np.cos(np.pi * v * centers)),
            ]
            for u, v in lowest
        ]
    ).reshape(_FREQUENCIES, -1)
    norms = np.linalg.norm(patterns, axis=1, keepdims=True)
    return cast(Floats, np.round(128 * patterns / norms).astype(np.float32))
