"""The full state of a run in one file, written whole or not at all.

Tensors and plain types only, so that loading (`weights_only=True`) runs no code.
"""

import io
import pickle
import random
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch

from mlops import files
from mlops.errors import PipelineError

FORMAT_VERSION = 1

State = dict[str, Any]

# What a flipped bit or a cut file shows as, in zip's own tables or in a record.
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError)


def save_checkpoint(path: Path, state: State) -> None:
    """Write `state` with the format's version; a crash leaves the file that was there before."""
    files.write_bytes(path, checkpoint_bytes(state))


def checkpoint_bytes(state: State) -> bytes:
    """The file's content. Equal states, keys in one order, give equal bytes: no time is in it."""
    buffer = io.BytesIO()
    torch.save({"format_version": FORMAT_VERSION, **_unshared(state)}, buffer)
    return buffer.getvalue()


def load_checkpoint(path: Path, *, device: torch.device | str = "cpu") -> State:
    """Read a checkpoint after checking its records' checksums, which torch.load does not."""
    with path.open("rb") as stream:
        try:
            state = torch.load(_checked_copy(stream), map_location=device, weights_only=True)
        except pickle.UnpicklingError:
            # torch's own message advises to load it all the same, and so to run its code.
            raise PipelineError(
                f"{path}: expected tensors and plain types, got objects that only running code "
                "could load; remove it and run again"
            ) from None
        except torch.OutOfMemoryError:
            raise  # no fault of the file, though it is a RuntimeError
        except _DAMAGED as error:
            raise PipelineError(
                f"{path}: expected a checkpoint, got a damaged file ({error}); remove it and run "
                "again"
            ) from None
    found = state.get("format_version") if isinstance(state, dict) else None
    if found != FORMAT_VERSION:
        raise PipelineError(
            f"{path}: expected format version {FORMAT_VERSION}, got {found or 'none'}; remove it "
            "and run again"
        )
    return cast(State, state)


def _checked_copy(stream: BinaryIO) -> io.BytesIO:
    """The same records in a new archive; `zipfile` compares each with its checksum on reading.

    Checking the file itself is not enough: a flipped flag in zip's tables makes torch pass over
    a record and give a tensor of what the memory held before, without an error.
    """
    copy = io.BytesIO()
    with zipfile.ZipFile(stream) as source, zipfile.ZipFile(copy, "w") as target:
        for record in source.infolist():
            target.writestr(record.filename, source.read(record))
    copy.seek(0)
    return copy


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
    if isinstance(value, torch.Tensor) and value.untyped_storage().nbytes() != value.nbytes:
        return value.detach().clone()
    return value


def rng_state() -> State:
    """The states of all generators that training may draw from."""
    kind, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    version, internal, gauss_next = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [kind, torch.from_numpy(np.asarray(keys).copy()), position, has_gauss, cached],
        "python": [version, list(internal), gauss_next],
    }


def set_rng_state(state: State) -> None:
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"]:
        torch.cuda.set_rng_state_all([item.cpu() for item in state["cuda"]])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.cpu().numpy(), *rest))  # noqa: NPY002
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
