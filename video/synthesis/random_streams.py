"""Random choices of the sample, the same in every release of numpy."""

import math
from collections.abc import Sequence
from hashlib import blake2b
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

VERSION = 1  # part of every key: raise it if the same seed gives other videos

_T = TypeVar("_T")


class RandomStream:
    """Reproducible draws named by a key.

    Built on the raw words of Philox alone: numpy keeps those stable between releases, but not the
    methods of its generators.
    """

    def __init__(self, *key: object) -> None:
        text = "|".join(map(str, ("sample", VERSION, *key)))
        digest = blake2b(text.encode(), digest_size=16).digest()
        self._source = np.random.Philox(key=int.from_bytes(digest, "little"))

    def between(self, low: float, high: float) -> float:
        """Draw a number uniformly from [low, high)."""
        return low + (high - low) * ((int(self._source.random_raw()) >> 11) * 2.0**-53)

    def choice(self, options: Sequence[_T]) -> _T:
        return options[int(self.between(0, len(options)))]

    def shuffled(self, options: Sequence[_T]) -> list[_T]:
        rest = list(options)
        return [rest.pop(int(self.between(0, len(rest)))) for _ in options]

    def uniform_bytes(self, *shape: int) -> NDArray[np.uint8]:
        """Draw uniform bytes, uint8 of the given shape."""
        count = math.prod(shape)
        words = self._source.random_raw((count + 7) // 8)
        return words.astype("<u8").view(np.uint8)[:count].reshape(shape)
