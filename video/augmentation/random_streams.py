"""Random numbers that follow from what they are for, whatever was drawn before."""

import operator
import re
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import NDArray

# Raise it with any change of code that changes a byte of any augmented clip: the version enters
# every random stream and the key of every stored clip.
TRANSFORM_VERSION = 1


class _Key(ISeedSequence):
    """A Philox key as a seed: `Philox(key=…)` gives the same stream, but takes 3 times as long,
    for it asks the system for a seed first."""

    def __init__(self, digest: bytes) -> None:
        self._words = np.frombuffer(digest, "<u8").astype(np.uint64)

    def generate_state(self, n_words: int, dtype: object = np.uint32) -> NDArray[np.uint64]:
        assert (n_words, dtype) == (2, np.uint64)  # what Philox asks for
        return self._words


@dataclass(frozen=True)
class RandomStreams:
    """The random numbers of one augmented clip, by purpose.

    Every purpose has its own Philox key. What one operation draws therefore depends neither on
    how much another one draws nor on whether another one is applied.
    """

    identity: str

    @classmethod
    def of(cls, *, seed: int, video_sha256: str, copy: int) -> "RandomStreams":
        """Raises ValueError for a hash or a copy number that could not be a clip's identity."""
        # The same hash in capitals would be other bytes for the same video.
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
        """A new stream from its beginning, for `random_raw`: integers of 64 bits.

        Raw integers, since numpy may change what its Generator makes of them between versions.
        """
        digest = blake2b(f"{self.identity}|{purpose}".encode(), digest_size=16).digest()
        # The stubs know one kind of ISeedSequence, which is taken in general.
        return np.random.Philox(_Key(digest))  # type: ignore[arg-type]

    def raw(self, purpose: str, count: int) -> NDArray[np.uint64]:
        """The first `count` integers of the stream, of 64 bits each."""
        return self.stream(purpose).random_raw(count)

    def uniforms(self, purpose: str, count: int) -> NDArray[np.float64]:
        """`count` numbers in [0, 1), multiples of 2**-53 and thus exact."""
        return (self.raw(purpose, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53
