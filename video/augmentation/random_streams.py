"""Random streams keyed by purpose, independent of earlier draws."""

import operator
import re
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import NDArray

# Raise it with any change that alters a byte of any augmented clip: the version is part of every
# random stream and of the key of every stored clip.
TRANSFORM_VERSION = 1


class _Key(ISeedSequence):
    """A Philox key as a seed sequence.

    `Philox(key=…)` gives the same stream in 3 times the time: it asks the system for a seed first.
    """

    def __init__(self, digest: bytes) -> None:
        self._words = np.frombuffer(digest, "<u8").astype(np.uint64)

    def generate_state(self, n_words: int, dtype: object = np.uint32) -> NDArray[np.uint64]:
        assert (n_words, dtype) == (2, np.uint64)  # what Philox asks for
        return self._words


@dataclass(frozen=True)
class RandomStreams:
    """The random numbers of one augmented clip, by purpose.

    Every purpose has its own Philox key. The draws of one operation therefore do not depend on how
    much another one draws or on whether it is applied.
    """

    identity: str

    @classmethod
    def of(cls, *, seed: int, video_sha256: str, copy: int) -> "RandomStreams":
        """Return the streams of a clip; `ValueError` for an invalid hash or copy number."""
        # Lower case only: the same hash in capitals would give other bytes for the same video.
        if not re.fullmatch("[0-9a-f]{64}", video_sha256):
            raise ValueError(
                "augment_clip: video_sha256: expected 64 lower-case hexadecimal digits, "
                f"got {video_sha256!r}; pass the SHA-256 of the video file's bytes"
            )
        if copy < 0:
            raise ValueError(f"augment_clip: copy: expected 0 or more, got {copy}; count from 0")
        # index(): 1 and np.int64(1) are one identity, 1.0 is refused.
        return cls(
            f"{TRANSFORM_VERSION}|{operator.index(seed)}|{video_sha256}|{operator.index(copy)}"
        )

    def stream(self, purpose: str) -> np.random.Philox:
        """Return a new stream from its beginning, for `random_raw`: 64-bit integers.

        The methods of numpy's Generator may give other numbers in another version.
        """
        digest = blake2b(f"{self.identity}|{purpose}".encode(), digest_size=16).digest()
        # numpy's stubs accept SeedSequence only; Philox takes any ISeedSequence.
        return np.random.Philox(_Key(digest))  # type: ignore[arg-type]

    def uniforms(self, purpose: str, count: int) -> NDArray[np.float64]:
        """Return `count` numbers in [0, 1), multiples of 2**-53 and thus exact."""
        words = self.stream(purpose).random_raw(count)
        return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
