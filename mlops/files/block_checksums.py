"""Checksums of an append-only file, one per block: they tell where it has changed."""

import os
import zlib
from collections.abc import Iterator
from itertools import zip_longest

BLOCK_BYTES = 4096
PIECE_BYTES = 1 << 20  # read at once

_DIGITS = 8  # of one checksum


class BlockChecksums:
    """The CRC-32 of each block of what was added so far, the last block as far as it goes."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self._whole: list[str] = []
        self._last = 0

    def add(self, content: bytes) -> None:
        left = BLOCK_BYTES - self.num_bytes % BLOCK_BYTES
        self.num_bytes += len(content)
        # Called for every logged step, which rarely fills a block.
        while len(content) >= left:
            self._whole.append(f"{zlib.crc32(content[:left], self._last):08x}")
            content, left, self._last = content[left:], BLOCK_BYTES, 0
        self._last = zlib.crc32(content, self._last)

    @property
    def text(self) -> str:
        """Eight hex digits per block."""
        last = f"{self._last:08x}" if self.num_bytes % BLOCK_BYTES else ""
        return "".join(self._whole) + last


def checksums_of(descriptor: int, num_bytes: int) -> BlockChecksums:
    """Return the checksums of the first bytes of an open file; of fewer if it has fewer."""
    checksums = BlockChecksums()
    for piece in pieces(descriptor, 0, num_bytes):
        checksums.add(piece)
    return checksums


def first_difference(expected: str, got: str) -> int | None:
    """Return the offset of the first block whose checksums differ; None if all are the same."""
    blocks = zip_longest(_split(expected), _split(got))
    return next((i * BLOCK_BYTES for i, (one, other) in enumerate(blocks) if one != other), None)


def pieces(descriptor: int, begin: int, end: int) -> Iterator[bytes]:
    """Yield what lies between two offsets of an open file, or as much as there is of it."""
    while begin < end and (piece := os.pread(descriptor, min(PIECE_BYTES, end - begin), begin)):
        yield piece
        begin += len(piece)


def _split(text: str) -> Iterator[str]:
    return (text[i : i + _DIGITS] for i in range(0, len(text), _DIGITS))
