"""Fingerprints made of given hashes."""

import numpy as np
from numpy.typing import ArrayLike

from video.splitting.fingerprints import WINDOW_PICTURES, WORDS_PER_HASH
from video.splitting.windows import WINDOWS


def without_windows(whole: ArrayLike) -> list[int]:
    """Return a fingerprint with these hashes of whole pictures, whose windows have no contrast."""
    words: list[int] = np.asarray(whole, np.uint64).ravel().tolist()
    return words + [0] * (len(WINDOWS) * WINDOW_PICTURES * WORDS_PER_HASH)
