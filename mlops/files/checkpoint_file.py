"""A state in one file, written whole or not at all, and verified before it is read.

A file is what `torch.save` makes of tensors and plain types, so that `torch.load` reads it and
`weights_only=True` runs no code, plus the CRC-32 of all its bytes as the archive's comment. The
checksums of the single records, which torch never compares, are left out: computing them holds
Python's lock, and with it training, for as long as a tenth of a second a 400 MB.
"""

import io
import os
import pickle
import sys
import threading
import zlib
from concurrent.futures import Executor, ThreadPoolExecutor
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
    that was there before. Directories are made as `atomic.replacing` does.
    """
    with atomic.replacing(path, parents=parents) as temporary:
        return write_checkpoint(temporary, state)


def write_checkpoint(path: Path, state: State) -> int:
    """Write the file at `path` itself, not synced; return its size in bytes."""
    with ThreadPoolExecutor(1) as thread, _ChecksummedFile(path, thread) as file:
        _write_archive(file, {"format_version": FORMAT_VERSION, **_unshared(state)})
        # The archive ends with the length of its comment, which is none so far. CRC-32 is linear:
        # what two other bytes at the end change in it depends on these bytes alone.
        length = _COMMENT_BYTES.to_bytes(2, "little")
        comment = _COMMENT % (file.crc32 ^ zlib.crc32(bytes(2)) ^ zlib.crc32(length))
        file.seek(-len(length), os.SEEK_END)
        file.write(length + comment)
        return file.tell()


class _ChecksummedFile(io.BufferedWriter):
    """File whose checksum a thread computes beside the writing, which waits for the disk."""

    def __init__(self, path: Path, thread: Executor) -> None:
        super().__init__(io.FileIO(path, "w"))
        self.crc32 = 0
        self._thread = thread

    def write(self, data: Any) -> int:
        if len(data) < _SMALL_BYTES:  # not worth the thread
            self.crc32 = zlib.crc32(data, self.crc32)
            return super().write(data)
        checksum = self._thread.submit(zlib.crc32, data, self.crc32)
        try:
            return super().write(data)
        finally:
            # torch may free what it has written.
            self.crc32 = checksum.result()


def _write_archive(file: BinaryIO, document: State) -> None:
    with _switch:
        computed = torch.serialization.get_crc32_options()
        torch.serialization.set_crc32_options(False)
        try:
            torch.save(document, file)
        except RuntimeError as error:
            # torch closes its archive after an error of the disk too, and stumbles over it.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        finally:
            torch.serialization.set_crc32_options(computed)


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
        crc = _crc32(file, size_bytes - _COMMENT_BYTES)
        promised = file.read()
    if not promised.startswith(b"crc32:"):
        raise _damaged(path, "no checksum at its end")
    if promised != _COMMENT % crc:
        raise _damaged(path, "its checksum differs")


def _crc32(file: BinaryIO, num_bytes: int) -> int:
    """Return the checksum of the next bytes of a file."""
    crc = 0
    while num_bytes and (piece := file.read(min(num_bytes, _PIECE_BYTES))):
        crc = zlib.crc32(piece, crc)
        num_bytes -= len(piece)
    return crc


def _damaged(path: Path, how: str) -> PipelineError:
    return PipelineError(
        f"{path}: expected a checkpoint, got a damaged file ({how}); remove it and run again"
    )


def _unshared(value: Any) -> Any:
    """Return a copy, tensors excepted, that pickle writes by its values alone.

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
