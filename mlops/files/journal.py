"""An append-only file of JSON lines with one writer, which a checkpoint can cut back.

A state holds how long the file was, and checksums of what it held: neither a lost nor a changed
line passes for what was written.

What `append` has returned from survives a kill of the process, and after `sync` a power cut too.
`sync` also brings a copy beside the file up to date: where one of the two is lost or damaged, the
other one is enough to go on.
Between two appends the file ends with a whole line, whatever happened to the disk or to the
process that wrote before.
"""

import fcntl
import os
import shutil
import sys
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from mlops.errors import PipelineError
from mlops.files import atomic

BLOCK_BYTES = 4096  # of a checksum
PIECE_BYTES = 1 << 16  # read at once


class Checksums:
    """The CRC-32 of each block of what was added so far, the last block as far as it goes."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self._crcs: list[int] = []  # of whole blocks
        self._last = 0

    def add(self, content: bytes) -> None:
        """Add what comes next, of any length."""
        left = BLOCK_BYTES - self.num_bytes % BLOCK_BYTES
        self.num_bytes += len(content)
        # Called for every logged step, which rarely fills a block.
        while len(content) >= left:
            self._crcs.append(zlib.crc32(content[:left], self._last))
            content, left, self._last = content[left:], BLOCK_BYTES, 0
        self._last = zlib.crc32(content, self._last)

    @property
    def text(self) -> str:
        """Eight hex digits per block."""
        crcs = [*self._crcs, self._last] if self.num_bytes % BLOCK_BYTES else self._crcs
        return "".join(f"{crc:08x}" for crc in crcs)


class Journal:
    """Appends to `path`, and holds its lock until `close` or the end of the process.

    Lines that are cut off go to `orphans`, orphans.jsonl beside `path` unless it is given.
    """

    def __init__(self, path: Path, orphans: Path | None = None) -> None:
        self.path = path
        self._copy = copy_of(path)
        self._orphans = orphans or path.with_name("orphans.jsonl")
        _set_others_aside(path)
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        except FileNotFoundError:
            raise PipelineError(
                f"{path.parent}: expected the directory of a run, found none; make one with "
                "mlops.run.directory.create_run_directory"
            ) from None
        try:
            # The kernel lets go of it when the process ends, however it ends.
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise PipelineError(
                f"{path.parent}: expected a run that no process is in, got one that another "
                "process trains in; wait for its end, then run again"
            ) from None
        # A process that was killed may have left a part of a line, to which the next would be
        # glued: both would be lost to readers.
        self._cut(_line_end(self._descriptor, self._size()))
        self._checksums = _checksums_of(self._descriptor, self._size())
        self._waiting = b""  # what a full disk had no room for

    def append(self, block: bytes) -> None:
        """Write whole lines, each with its newline: all of `block`, or on an error none of it.

        Where the disk is full they wait in memory, and in every state that is saved, for the next
        `append`: a kill of the process costs no line that a state knows of.
        """
        if self._waiting:
            block = self._waiting + block
        try:
            self._write(block)
        except OSError as error:
            if error.errno not in atomic.FULL:
                raise
            if not self._waiting:
                _tell(
                    f"{self.path}: expected room for another line, got: {error.strerror}; the "
                    "lines wait in memory and in the checkpoints: make room"
                )
            self._waiting = block
        else:
            self._checksums.add(block)
            self._waiting = b""

    def _write(self, block: bytes) -> None:
        try:
            written = os.write(self._descriptor, block)
            while written < len(block):
                written += os.write(self._descriptor, block[written:])
        except OSError:
            # On a full disk a write can stop half-way; the next one then raises.
            os.ftruncate(self._descriptor, self._checksums.num_bytes)
            raise

    def flush(self) -> None:
        """Write the lines that wait; a `PipelineError` says that there is no room for them."""
        if self._waiting:
            self.append(b"")
        if self._waiting:
            raise PipelineError(
                f"{self.path}: expected room for {len(self._waiting)} bytes, got a full disk; make "
                "room and run the same command again"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return where the file ends and what it holds: `offset_bytes`, and the lines `waiting`.

        `crc32` is of what was written, not of what lies there now. Nothing is synced: that is for
        the thread that writes the checkpoint, which calls `sync` before the checkpoint gets its
        name.
        """
        return {
            "offset_bytes": self._checksums.num_bytes,
            "crc32": self._checksums.text,
            "waiting": self._waiting.decode(),
        }

    @property
    def is_in_place(self) -> bool:
        """True if `path` is the file that is written: not if it was removed, moved or replaced."""
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self._descriptor))
        except OSError:
            return False

    def fault(self) -> str | None:
        """Return how the file differs from all that was written into it; None if it does not."""
        written, size = self._checksums.num_bytes, self._size()
        if size > written:
            return f"{self.path}: expected {written} bytes, as were written, got {size}"
        return fault_of(self.path, self.state_dict())

    def sync(self) -> None:
        """Flush to disk what was appended so far, and then its copy. Any thread may call it."""
        num_bytes = self._checksums.num_bytes
        os.fdatasync(self._descriptor)
        _set_others_aside(self._copy)
        with self._copy.open("ab") as copy:
            for piece in _pieces(self._descriptor, copy.tell(), num_bytes):
                copy.write(piece)
            copy.flush()
            os.fdatasync(copy.fileno())

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Cut the file where the state was saved, so that nothing stands in it twice.

        `None` stands for a run without a checkpoint.
        """
        if state and (fault := fault_of(self.path, state)):
            if fault_of(self._copy, state):
                raise PipelineError(f"{fault}; put it back, or remove the checkpoint and run again")
            self._restore(fault)
        offset = state["offset_bytes"] if state else 0
        self._cut(offset)
        _set_others_aside(self._copy)
        if state and fault_of(self._copy, state) is None:
            os.truncate(self._copy, offset)
        else:  # the next `sync` makes it anew
            self._copy.unlink(missing_ok=True)
        self._checksums = _checksums_of(self._descriptor, self._size())
        self._waiting = b""
        if state:
            self.append(state["waiting"].encode())

    def adopt(self, path: Path, state: Mapping[str, Any]) -> None:
        """Begin with what another journal holds up to a state of it; that one stays as it is."""
        self.load_state_dict(None)
        sound = intact(path, state)
        if sound is None:
            raise PipelineError(
                f"{fault_of(path, state)}; put it back, or remove that run's checkpoints and run "
                "again"
            )
        self._append_file(sound, state["offset_bytes"])
        self.append(state["waiting"].encode())

    def close(self) -> None:
        """Release the lock; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _restore(self, fault: str) -> None:
        """Write the file anew from its copy; what was there is kept under another name."""
        kept = atomic.free_name(self.path, "damaged")
        shutil.copyfile(self.path, kept)
        os.ftruncate(self._descriptor, 0)
        self._checksums = Checksums()
        self._append_file(self._copy, self._copy.stat().st_size)
        self.flush()
        _tell(f"{fault}; restored from {self._copy.name}, and kept as {kept.name}")

    def _append_file(self, path: Path, num_bytes: int) -> None:
        with path.open("rb") as source:
            for piece in _pieces(source.fileno(), 0, num_bytes):
                self.append(piece)

    def _size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def _cut(self, offset: int) -> None:
        if self._size() == offset:
            return
        # First the copy: a crash in between leaves lines in both files, and loses none.
        with self._orphans.open("a+b") as orphans:
            # A kill may have cut off an earlier copy.
            if orphans.seek(0, os.SEEK_END) and not _ends_a_line(orphans):
                orphans.write(b"\n")
            piece = b"\n"
            for piece in _pieces(self._descriptor, offset, self._size()):
                orphans.write(piece)
            if not piece.endswith(b"\n"):
                orphans.write(b"\n")
            orphans.flush()
            os.fsync(orphans.fileno())
        os.ftruncate(self._descriptor, offset)
        os.fsync(self._descriptor)


def copy_of(path: Path) -> Path:
    """Return the path of a journal's copy, as metrics.copy.jsonl of metrics.jsonl."""
    return path.with_name(f"{path.stem}.copy{path.suffix}")


def intact(path: Path, state: Mapping[str, Any]) -> Path | None:
    """Return the journal, or else its copy, if it holds what a state says; None if neither does."""
    return next((p for p in (path, copy_of(path)) if fault_of(p, state) is None), None)


def fault_of(path: Path, state: Mapping[str, Any]) -> str | None:
    """Return how a file differs from what a state says of it, and where; None if it fits."""
    offset = state["offset_bytes"]
    if not path.is_file():
        return f"{path}: expected {offset} bytes, as the checkpoint says, found no file"
    descriptor = os.open(path, os.O_RDONLY)
    try:
        found = _checksums_of(descriptor, offset)
        if found.num_bytes < offset:
            return (
                f"{path}: expected at least {offset} bytes, as the checkpoint says, got "
                f"{found.num_bytes}"
            )
        if offset and os.pread(descriptor, 1, offset - 1) != b"\n":
            return f"{path}: expected the end of a line at byte {offset}, as the checkpoint says"
        expected = state.get("crc32", "")  # none in a state of earlier code
        if found.text == expected:
            return None
        digits = enumerate(zip(found.text, expected, strict=False))
        begin = next((i for i, (one, other) in digits if one != other), 0) // 8 * BLOCK_BYTES
        end = min(begin + BLOCK_BYTES, offset)
        first = _count_lines(descriptor, 0, begin) + 1
        last = first + _count_lines(descriptor, begin, end - 1)
        return f"{path}: expected what was written in lines {first} to {last}, got a changed line"
    finally:
        os.close(descriptor)


def _set_others_aside(path: Path) -> None:
    """Rename what lies at `path` and is no file."""
    if os.path.lexists(path) and not path.is_file():
        _tell(f"{path}: expected a file; kept as {atomic.set_aside(path, 'damaged')}")


def _tell(text: str) -> None:
    print(text, file=sys.stderr)


def _checksums_of(descriptor: int, num_bytes: int) -> Checksums:
    """Return the checksums of the first bytes of an open file; of fewer if it has fewer."""
    checksums = Checksums()
    for piece in _pieces(descriptor, 0, num_bytes):
        checksums.add(piece)
    return checksums


def _pieces(descriptor: int, begin: int, end: int) -> Iterator[bytes]:
    """Yield what lies between two offsets of an open file, or as much as there is of it."""
    while begin < end and (piece := os.pread(descriptor, min(PIECE_BYTES, end - begin), begin)):
        yield piece
        begin += len(piece)


def _count_lines(descriptor: int, begin: int, end: int) -> int:
    return sum(piece.count(b"\n") for piece in _pieces(descriptor, begin, end))


def _ends_a_line(file: BinaryIO) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def _line_end(descriptor: int, end: int) -> int:
    """Return the end of the last whole line before `end`; 0 if there is none."""
    while end > 0:
        start = max(0, end - PIECE_BYTES)
        if found := os.pread(descriptor, end - start, start).rfind(b"\n") + 1:
            return start + found
        end = start
    return 0
