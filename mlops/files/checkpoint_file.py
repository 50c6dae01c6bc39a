"""A state in one file, written whole or not at all, and verified before it is read.

A file is what `torch.save` makes of tensors and plain types, so that `torch.load` reads it and
`weights_only=True` runs no code, plus the CRC-32 of all its bytes as the archive's comment. The
checksums of the single records, which torch never compares, are left out: computing them holds
Python's lock, and with it training, for as long as a tenth of a second a 400 MB.
"""

import mmap
import os
import pickle
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from mlops.errors import PipelineError
from mlops.files import atomic

FORMAT_VERSION = 2

State = dict[str, Any]

_COMMENT = b"crc32:%08x"
_COMMENT_BYTES = len(_COMMENT % 0)
_SMALL_BYTES = 1 << 16
_PIECE_BYTES = 1 << 24

# What a file that is no archive of torch's shows as, once its checksum is right.
_UNREADABLE = (EOFError, RuntimeError, ValueError)

# torch has one switch for the checksums of the records, for all threads.
_switch = threading.Lock()


def save_checkpoint(path: Path, state: State, *, parents: bool = True) -> int:
    """Write `state` with the format's version, and return the file's size in bytes.

    Equal states, keys in one order, give equal bytes: no time is in them. A crash leaves the file
    that was there before. Directories are made as `files.replacing` does.
    """
    with atomic.replacing(path, parents=parents) as temporary:
        return write_checkpoint(temporary, state)


def write_checkpoint(path: Path, state: State) -> int:
    """Write the file at `path` itself, not synced; return its size in bytes."""
    with path.open("wb", buffering=0) as file, _Stream(file) as stream:
        plain = _unshared(state)
        with _switch:
            computed = torch.serialization.get_crc32_options()
            torch.serialization.set_crc32_options(False)
            try:
                torch.save({"format_version": FORMAT_VERSION, **plain}, cast(Any, stream))
            except RuntimeError as error:
                # torch closes its archive after an error of the disk too, and stumbles over it.
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise
            finally:
                torch.serialization.set_crc32_options(computed)
        return stream.finish()


def load_checkpoint(path: Path, *, device: torch.device | str = "cpu") -> State:
    """Read a checkpoint; a `PipelineError` says how it is damaged or of another kind."""
    if kind := other_kind(path):
        raise PipelineError(f"{path}: expected a checkpoint, got {kind}; remove it and run again")
    _verify(path)
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError:
        # torch's own message advises to load it all the same, and so to run its code.
        raise PipelineError(
            f"{path}: expected tensors and plain types, got objects that only running code "
            "could load; remove it and run again"
        ) from None
    except torch.OutOfMemoryError:
        raise  # no fault of the file, though it is a RuntimeError
    except _UNREADABLE as error:
        raise _damaged(path, str(error).partition("\n")[0]) from None
    found = state.get("format_version") if isinstance(state, dict) else None
    if found != FORMAT_VERSION:
        raise PipelineError(
            f"{path}: expected format version {FORMAT_VERSION}, got {found or 'none'}; remove it "
            "and run again"
        )
    return cast(State, state)


class _Stream:
    """What torch writes into: passes it on to a file, and adds the checksum at the end.

    The checksum is computed in a thread beside the writing, which waits for the disk.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._small = bytearray()  # torch writes each record's header by itself
        self._crc = 0
        self._size_bytes = 0
        self._checksums = ThreadPoolExecutor(1)

    def __enter__(self) -> "_Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self._checksums.shutdown()

    def write(self, data: memoryview) -> int:
        if len(data) < _SMALL_BYTES:
            self._small += data
            if len(self._small) > _PIECE_BYTES:
                self._write_small(keep_bytes=_SMALL_BYTES)
        else:
            self._write_small()
            self._pass_on(data)
        return len(data)

    def flush(self) -> None:
        """Part of what torch asks of a file; nothing to do before `finish`."""

    def finish(self) -> int:
        """Write the rest, with the checksum as the archive's comment; return the file's size."""
        # The archive ends with the length of its comment, which is none so far.
        self._small[-2:] = _COMMENT_BYTES.to_bytes(2, "little")
        self._write_small()
        comment = _COMMENT % self._crc
        _write_all(self._file, memoryview(comment))
        return self._size_bytes + len(comment)

    def _write_small(self, *, keep_bytes: int = 0) -> None:
        # The end is kept back while more may come: `finish` changes the last bytes.
        end = len(self._small) - keep_bytes
        if end > 0:
            self._pass_on(memoryview(self._small[:end]))
            del self._small[:end]

    def _pass_on(self, data: memoryview) -> None:
        checksum = self._checksums.submit(self._add_to_checksum, data)
        try:
            _write_all(self._file, data)
        finally:
            # torch may free what it has written, as it does the table at the archive's end.
            checksum.result()
        self._size_bytes += len(data)

    def _add_to_checksum(self, data: memoryview) -> None:
        self._crc = zlib.crc32(data, self._crc)


def _write_all(file: BinaryIO, data: memoryview) -> None:
    while data:
        data = data[file.write(data[:_PIECE_BYTES]) :]


def other_kind(path: Path) -> str | None:
    """Return what lies at `path`, in words, if it is neither a file nor nothing at all."""
    if path.is_file() or not os.path.lexists(path):
        return None
    if path.is_dir():
        return "a directory"
    return "a link to nothing" if path.is_symlink() else "no regular file"


def _verify(path: Path) -> None:
    """Raise `PipelineError` unless the file's bytes are those of its checksum."""
    with path.open("rb") as file:
        size_bytes = os.fstat(file.fileno()).st_size
        if size_bytes <= _COMMENT_BYTES:
            raise _damaged(path, f"it has {size_bytes} bytes")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            covered = size_bytes - _COMMENT_BYTES
            crc = 0
            with memoryview(content) as view:
                for start in range(0, covered, _PIECE_BYTES):
                    # A slice with a name would keep the file mapped if this fails.
                    crc = zlib.crc32(view[start : min(start + _PIECE_BYTES, covered)], crc)
            promised = content[covered:]
    if not promised.startswith(b"crc32:"):
        raise _damaged(path, "no checksum at its end")
    if promised != _COMMENT % crc:
        raise _damaged(path, "its checksum differs")


def _damaged(path: Path, how: str) -> PipelineError:
    return PipelineError(
        f"{path}: expected a checkpoint, got a damaged file ({how}); remove it and run again"
    )


def _unshared(value: Any) -> Any:
    """A copy, tensors excepted, that pickle writes by its values alone.

    Pickle writes an object met twice as a reference to the first, and torch a whole storage for
    a part of it: both say how a state came to be, not what it is.
    """
    if isinstance(value, dict):
        return {_unshared(key): _unshared(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_unshared(item) for item in value]
    if isinstance(value, tuple):
        return tuple(_unshared(item) for item in value)
    if isinstance(value, str):
        return sys.intern(value)
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        if value.untyped_storage().nbytes() != value.nbytes:
            value = value.clone()
    return value
