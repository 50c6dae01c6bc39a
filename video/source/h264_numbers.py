"""The numbers that H.264 gives its pictures, which show where reference pictures are missing.

A decoder makes up what is missing, without a word, and the pictures that follow are smeared.
"""

from collections.abc import Iterator
from mmap import mmap

_NON_IDR, _IDR, _SPS = 1, 5, 7
_HEADER_BYTES = 64  # the fields that are read here are among the first ones
_WITH_CHROMA_FORMAT = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244})


class _Bits:
    """The bits of a unit, from the most significant one on (ITU-T H.264, 7.2 and 9.1)."""

    def __init__(self, unit: bytes) -> None:
        content = unit.replace(b"\0\0\3", b"\0\0")  # 3: against a start code by accident
        self._bits = "".join(f"{byte:08b}" for byte in content)
        self._place = 0

    def fixed(self, count: int) -> int:
        self._place += count
        return int(self._bits[self._place - count : self._place] or "0", 2)

    def golomb(self) -> int:
        zeros = self._bits.index("1", self._place) - self._place
        self._place += zeros
        return self.fixed(zeros + 1) - 1


def missing_number(data: mmap) -> int | None:
    """Return where in a raw stream the first picture begins before which others are missing."""
    width, has_planes, previous = 0, False, -1
    for place in _units(data):
        kind, is_reference = data[place] & 31, data[place] & 0x60 > 0
        bits = _Bits(data[place + 1 : place + 1 + _HEADER_BYTES])
        try:
            if kind == _SPS:
                width, has_planes = _numbering(bits)
            number = _picture_number(bits, width, has_planes) if kind in (_NON_IDR, _IDR) else 0
        except ValueError:  # bits that mean nothing, which the decoder will meet too
            continue
        if not width or kind not in (_NON_IDR, _IDR):
            continue
        step = (number - previous) % (1 << width)
        if kind == _NON_IDR and previous >= 0 and step > 1:
            return place
        if is_reference:
            previous = number
    return None


def _units(data: mmap) -> Iterator[int]:
    place = data.find(b"\0\0\1")
    while 0 <= place < len(data) - 3:
        yield place + 3
        place = data.find(b"\0\0\1", place + 3)


def _numbering(bits: _Bits) -> tuple[int, bool]:
    """Return the bits of a number, 0 if gaps are allowed, and whether planes are coded alone."""
    profile = bits.fixed(24) >> 16
    bits.golomb()
    chroma, has_planes = 1, False
    if profile in _WITH_CHROMA_FORMAT:
        chroma = bits.golomb()
        has_planes = chroma == 3 and bits.fixed(1) == 1
        bits.golomb(), bits.golomb(), bits.fixed(1)
        if bits.fixed(1):
            return 0, has_planes  # scaling lists, of which encoders write none in practice
    width = bits.golomb() + 4
    order = bits.golomb()
    if order == 0:
        bits.golomb()
    elif order == 1:
        bits.fixed(1), bits.golomb(), bits.golomb()
        for _ in range(bits.golomb()):
            bits.golomb()
    bits.golomb()
    return (0 if bits.fixed(1) else width), has_planes


def _picture_number(bits: _Bits, width: int, has_planes: bool) -> int:
    bits.golomb(), bits.golomb(), bits.golomb()
    if has_planes:
        bits.fixed(2)
    return bits.fixed(width)
