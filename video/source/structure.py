"""The structure of a file: whether its parts follow one another up to the end that it states.

After a hole FFmpeg searches for the next part, and at a cut it stops, mostly without a word; what
is missing then shows in the chain of parts, not in what is demuxed. Only headers of parts are read.
"""

import mmap
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from video.source.h264_numbers import missing_number


@dataclass(frozen=True, kw_only=True)
class Structure:
    """Findings about a file from its parts.

    hole: where the chain of parts is broken, "" if nowhere.
    cut: how the file ends too early, "" if it does not.
    has_end: whether it ends with the mark that its format has for this.
    stated_sec: duration that a header states, 0.0 if none does.
    contradiction: of two durations that the file states for the same frames, "" if none.
    """

    hole: str = ""
    cut: str = ""
    has_end: bool = False
    stated_sec: float = 0.0
    contradiction: str = ""


class _HoleError(Exception):
    """A part does not begin where the part before it ends."""


class _CutError(Exception):
    """The file ends inside a part, or before the mark of its end."""


def structure_of(path: Path, format_name: str) -> Structure:
    """Return the structure of a file of this format of FFmpeg; an empty one if it has no reader."""
    reader = next((read for name, read in _READERS.items() if name in format_name.split(",")), None)
    if reader is None:
        return Structure()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        found = Structure()
        try:
            for found in reader(data):  # noqa: B007 - the last one
                pass
        except _HoleError as error:
            return replace(found, hole=str(error))
        except _CutError as error:
            return replace(found, cut=str(error))
        except (struct.error, IndexError):
            return replace(found, cut="the file ends inside a header")
        return found


def _expect(sound: bool, place: int, part: str) -> None:
    if not sound:
        raise _HoleError(f"at byte {place} a {part} should begin")


def _expect_end(place: int, data: mmap.mmap, part: str) -> None:
    if place > len(data):
        raise _CutError(f"the file ends inside a {part}, {place - len(data)} bytes early")


def _flv(data: mmap.mmap) -> Iterator[Structure]:
    """Follow the tags; `duration` in onMetaData, the first of them, may state the duration."""
    named = data.find(b"\0\x08duration\0", 0, 1 << 16)
    (sec,) = struct.unpack_from(">d", data, named + 11) if named >= 0 else (0.0,)
    yield Structure(stated_sec=sec if 0 < sec < 1e9 else 0.0)
    place = int.from_bytes(data[5:9], "big") + 4
    while place < len(data):
        head = data[place : place + 11]
        _expect(head[0] & 0x1F in (8, 9, 18) and not any(head[8:]), place, "tag")
        place += 11 + int.from_bytes(head[1:4], "big") + 4
    _expect_end(place - 4, data, "tag")


_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


def _asf(data: mmap.mmap) -> Iterator[Structure]:
    """Follow the packets of one size; a header that is no broadcast's states bytes and duration."""
    (header_bytes,) = struct.unpack_from("<Q", data, 16)
    named = data.find(_ASF_FILE_PROPERTIES, 0, header_bytes)
    if named < 0:
        return
    play, _, preroll, flags, least, most = struct.unpack_from("<QQQIII", data, named + 64)
    is_broadcast = flags & 1
    yield Structure(stated_sec=0.0 if is_broadcast else max(0.0, play / 1e7 - preroll / 1e3))
    (data_bytes,) = struct.unpack_from("<Q", data, header_bytes + 16)
    (count,) = struct.unpack_from("<Q", data, header_bytes + 40)
    first = header_bytes + 50
    end = len(data) if is_broadcast else header_bytes + data_bytes
    if not least == most > 0:
        return
    if not is_broadcast:
        end = max(end, first + count * most)
    for place in range(first, min(end, len(data)), most):
        _expect(data[place] == data[first], place, "packet")
    _expect_end(end, data, "list of packets")


def _avi(data: mmap.mmap) -> Iterator[Structure]:
    """Follow the chunks; what the last one lacks shows in the number of frames."""
    place = end = 0
    while place + 12 <= len(data):
        if place >= end:
            # A file of more than a GB has several of these; after them may come anything.
            if data[place : place + 4] != b"RIFF":
                break
            end = place + 8 + int.from_bytes(data[place + 4 : place + 8], "little") or len(data)
            place += 12
            continue
        kind, size = struct.unpack_from("<4sI", data, place)
        _expect(kind.isascii() and kind.decode().isprintable(), place, "chunk")
        is_open = kind == b"LIST" and data[place + 8 : place + 12] in (b"movi", b"rec ")
        place += 12 if is_open else 8 + size + size % 2
    yield Structure()


def _mpeg(data: mmap.mmap) -> Iterator[Structure]:
    """Follow the packs and packets of a program stream (ISO/IEC 13818-1, ISO/IEC 11172-1)."""
    place = max(0, data.find(b"\0\0\1\xba"))
    while place + 14 <= len(data):
        name = data[place + 3] if data[place : place + 3] == b"\0\0\1" else 0
        _expect(name >= 0xB9, place, "packet")
        if name == 0xB9:
            yield Structure(has_end=place + 4 == len(data))
            place += 4
        elif name == 0xBA:
            place += 14 + (data[place + 13] & 7) if data[place + 4] & 0x40 else 12
        else:
            place += 6 + _number(data, place + 4, 2)
    _expect_end(place, data, "packet")


_GIF_TRAILER = 0x3B


def _gif(data: mmap.mmap) -> Iterator[Structure]:
    """Follow the blocks; each picture's data are blocks of one size, and a shorter last one."""

    def colors(flags: int) -> int:
        return 3 << (flags & 7) + 1 if flags & 0x80 else 0

    place = 13 + colors(data[10])
    irregular: list[int] = []
    num_pictures = 0
    while (kind := data[place]) != _GIF_TRAILER:
        begin, is_picture = place, kind == 0x2C
        _expect(is_picture or kind == 0x21, place, "block")
        place += 11 + colors(data[place + 9]) if is_picture else 2
        sizes = [data[place]]
        while sizes[-1]:
            place += 1 + sizes[-1]
            sizes.append(data[place])
        place += 1
        num_pictures += is_picture
        if is_picture and len({*sizes[:-2]}) > 1:
            irregular.append(begin)
    yield Structure(has_end=True)
    _expect(not 0 < len(irregular) <= num_pictures // 10, (irregular or [0])[0], "whole picture")


_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _ogg(data: mmap.mmap) -> Iterator[Structure]:
    """Follow the pages (RFC 3533), which have numbers, checksums and a mark on the last one."""
    place = 0
    next_number: dict[bytes, int] = {}
    open_streams: set[bytes] = set()
    while place < len(data):
        head = data[place : place + 27]
        _expect(head[:4] == b"OggS", place, "page")
        serial, number, sum_stored = head[14:18], *struct.unpack_from("<II", head, 18)
        size = 27 + head[26] + sum(data[place + 27 : place + 27 + head[26]])
        _expect_end(place + size, data, "page")
        page = head[:22] + bytes(4) + data[place + 26 : place + size]
        reflected = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
        _expect(int(f"{reflected:032b}"[::-1], 2) == sum_stored, place, "page with a checksum")
        _expect(number == next_number.get(serial, number), place, f"page {next_number.get(serial)}")
        next_number[serial] = number + 1
        (open_streams.discard if head[5] & 4 else open_streams.add)(serial)
        place += size
    yield Structure(has_end=not open_streams)


_EBML, _SEGMENT, _CLUSTER, _INFO = 0x1A45DFA3, 0x18538067, 0x1F43B675, 0x1549A966
_DURATION, _TIMESTAMP_SCALE = 0x4489, 0x2AD7B1
# SeekHead, Info, Tracks, Cues, Tags, Attachments, Chapters, Void, CRC-32.
_IN_SEGMENT = frozenset(
    {0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1254C367, 0x1941A469, 0x1043A770, 0xEC, 0xBF}
) | {_EBML, _SEGMENT, _CLUSTER}
# Timestamp, SimpleBlock, BlockGroup, PrevSize, Position, SilentTracks, EncryptedBlock, Void and
# CRC-32.
_IN_CLUSTER = frozenset({0xE7, 0xA3, 0xA0, 0xAB, 0xA7, 0x5854, 0xAF, 0xEC, 0xBF})


def _matroska(data: mmap.mmap) -> Iterator[Structure]:
    """Follow the elements (RFC 8794, 9559), also those of clusters; a live segment is open."""
    place, end, in_cluster = 0, len(data), False
    while place < min(end, len(data)):
        name, begin, size = _element(data, place)
        in_cluster &= name in _IN_CLUSTER
        _expect(name in (_IN_CLUSTER if in_cluster else _IN_SEGMENT), place, "element")
        in_cluster |= name == _CLUSTER
        if name == _INFO:
            yield Structure(stated_sec=_duration_in(data, begin, begin + (size or 0)))
        elif name == _SEGMENT and size is not None:
            end = begin + size
        place = begin + (0 if name in (_SEGMENT, _CLUSTER) else size or 0)
    _expect_end(max(place, end), data, "segment")


def _element(data: mmap.mmap, place: int) -> tuple[int, int, int | None]:
    """Return the name of an element, where its content begins, and how long it is, if stated."""
    name, begin = _vint(data, place)
    length, content = _vint(data, begin)
    marker = 1 << 7 * (content - begin)
    return name, content, None if length == 2 * marker - 1 else length - marker


def _duration_in(data: mmap.mmap, place: int, end: int) -> float:
    """Return the seconds that the information on a segment states, 0.0 if none."""
    ticks, tick_ns = 0.0, 1_000_000
    while place < end:
        name, begin, size = _element(data, place)
        place = begin + (size or 0)
        if name == _DURATION:
            (ticks,) = struct.unpack(">d" if size == 8 else ">f", data[begin:place])
        elif name == _TIMESTAMP_SCALE:
            tick_ns = int.from_bytes(data[begin:place], "big")
    return ticks * tick_ns / 1e9


def _vint(data: mmap.mmap, place: int) -> tuple[int, int]:
    """Return a number of variable length with its length marker, and where it ends."""
    _expect(data[place] > 0, place, "number")
    end = place + 9 - data[place].bit_length()
    return int.from_bytes(data[place:end], "big"), end


_Box = tuple[bytes, int, int]  # type, where its content begins, where it ends


def _mp4(data: mmap.mmap) -> Iterator[Structure]:
    """Follow the boxes (ISO/IEC 14496-12) of a fragmented file; a plain one states its frames.

    `mehd` or `sidx` may state the duration of fragments, and `mfra` is the mark of their end.
    """
    found, numbers, spans = Structure(), [], []
    for kind, begin, end in _boxes(data, 0, len(data)):
        if kind == b"moov":
            text, sec = _contradiction(data, begin, end), _duration_of_fragments(data, begin, end)
            found = Structure(contradiction=text, stated_sec=sec)
        elif kind == b"sidx":
            spans.append(_indexed_span(data, begin))
            sec = max(end for _, end in spans) - min(start for start, _ in spans)
            found = replace(found, stated_sec=max(found.stated_sec, sec))
        elif kind == b"moof":
            numbers += [_number(data, first + 4) for first, _ in _inside(data, begin, end, "mfhd")]
        found = replace(found, has_end=found.has_end or kind == b"mfra")
        yield found
        if numbers:
            _expect(kind.isalnum(), begin - 8, "box")
        if kind == b"moof" or (kind == b"mdat" and numbers):
            _expect_end(end, data, "fragment")
    steps = [after - before for before, after in pairwise(numbers)]
    if steps.count(1) > len(steps) // 2 and max(steps) > 1:
        raise _HoleError(f"fragment {numbers[steps.index(max(steps))] + 1} is missing")


def _boxes(data: mmap.mmap, place: int, end: int) -> Iterator[_Box]:
    while place + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, place)
        begin = place + 8
        if size == 1:
            (size,), begin = struct.unpack_from(">Q", data, begin), place + 16
        following = place + size if size else end
        _expect(following >= begin, place, "box")
        yield kind, begin, following
        place = following


def _inside(data: mmap.mmap, begin: int, end: int, *path: str) -> Iterator[tuple[int, int]]:
    """Yield where the content of each box of this path of types begins and ends."""
    for kind, first, last in _boxes(data, begin, min(end, len(data))):
        if kind == path[0].encode():
            yield from _inside(data, first, last, *path[1:]) if path[1:] else [(first, last)]


def _number(data: mmap.mmap, place: int, size: int = 4) -> int:
    return int.from_bytes(data[place : place + size], "big")


def _duration_of_fragments(data: mmap.mmap, begin: int, end: int) -> float:
    for movie, _ in _inside(data, begin, end, "mvhd"):
        for place, _ in _inside(data, begin, end, "mvex", "mehd"):
            timescale, _ = _timescale_and_duration(data, movie)
            return _number(data, place + 4, 8 if data[place] else 4) / max(1, timescale)
    return 0.0


def _timescale_and_duration(data: mmap.mmap, place: int) -> tuple[int, int]:
    """Read the content of `mvhd` or `mdhd`."""
    if data[place]:
        return _number(data, place + 20), _number(data, place + 24, 8)
    return _number(data, place + 12), _number(data, place + 16)


def _indexed_span(data: mmap.mmap, place: int) -> tuple[float, float]:
    """Return the times between which the fragments lie that a `sidx` lists.

    FFmpeg writes negative durations, as of fragments of one frame each that are not in order.
    """
    wide = 8 if data[place] else 4
    timescale, earliest = _number(data, place + 8), _signed(data, place + 12, wide)
    entries = place + 12 + 2 * wide + 4
    count = _number(data, entries - 2, 2)
    # Entries that lead to another `sidx` have the first bit set: that one is counted itself.
    listed = range(entries, entries + 12 * count, 12)
    ticks = sum(_signed(data, entry + 4) for entry in listed if not data[entry] & 0x80)
    return earliest / max(1, timescale), (earliest + ticks) / max(1, timescale)


def _signed(data: mmap.mmap, place: int, size: int = 4) -> int:
    return int.from_bytes(data[place : place + size], "big", signed=True)


def _contradiction(data: mmap.mmap, begin: int, end: int) -> str:
    """Compare the duration that a video track states with those of its samples, added up."""
    if [*_inside(data, begin, end, "mvex")]:
        return ""  # fragments follow, whose samples are not in here
    for media, media_end in _inside(data, begin, end, "trak", "mdia"):
        handler, header = (
            next(_inside(data, media, media_end, kind), (0, 0))[0] for kind in ("hdlr", "mdhd")
        )
        if data[handler + 8 : handler + 12] != b"vide":
            continue
        _, stated = _timescale_and_duration(data, header)
        runs = [
            (_number(data, run), _number(data, run + 4))
            for place, last in _inside(data, media, media_end, "minf", "stbl", "stts")
            for run in range(place + 8, min(last, place + 8 + 8 * _number(data, place + 4)), 8)
        ]
        total = sum(count * ticks for count, ticks in runs)
        if abs(total - stated) > 0.1 * total:
            return f"the samples last {total} ticks, their track {stated}"
    return ""


def _mpegts(data: mmap.mmap) -> Iterator[Structure]:
    """Check the first byte of every packet of 188 bytes, which 4 or 16 others may accompany."""
    sync = b"G"
    for size in (188, 192, 204):
        for first in range(size):
            if set(data[first : first + 5 * size : size]) == set(sync):
                marks = data[first::size]
                num_sound = len(marks) - len(marks.lstrip(sync))
                yield Structure()
                _expect(num_sound == len(marks), first + num_sound * size, "packet")
                rest = len(data) - (first + (len(marks) - 1) * size)
                _expect_end(len(data) + max(0, 188 - rest), data, "packet")
                return


def _h264(data: mmap.mmap) -> Iterator[Structure]:
    yield Structure()
    place = missing_number(data)
    if place is not None:
        raise _HoleError(f"pictures before byte {place} are missing")


def _realmedia(data: mmap.mmap) -> Iterator[Structure]:
    """Read the duration, in ms, in the properties, which stand behind the file's header."""
    place = data.find(b"PROP", 0, 1 << 10)
    if place >= 0:
        yield Structure(stated_sec=struct.unpack_from(">I", data, place + 30)[0] / 1000)


_READERS: dict[str, Callable[[mmap.mmap], Iterator[Structure]]] = {
    "asf": _asf,
    "avi": _avi,
    "flv": _flv,
    "gif": _gif,
    "h264": _h264,
    "matroska": _matroska,
    "mov": _mp4,
    "mpeg": _mpeg,
    "mpegts": _mpegts,
    "ogg": _ogg,
    "rm": _realmedia,
}
