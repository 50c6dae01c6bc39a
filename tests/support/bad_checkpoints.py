"""Files that are no checkpoints though they look like one."""

import io
import os
import zlib
from pathlib import Path
from typing import Any

import torch


class Touches:
    """Loaded by pickle, it runs a command that makes the file `trace`."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.trace}'",)


def write_with_checksum(content: Any, path: Path) -> None:
    """Write what torch saves of the content, and the checksum of a checkpoint."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    body = buffer.getvalue()[:-2] + (14).to_bytes(2, "little")
    path.write_bytes(body + b"crc32:%08x" % zlib.crc32(body))
