"""What a run of a stage had made when it was killed or failed.

DVC deletes a stage's outs before it runs the command, and keeps none of a run that did not finish.
So what took long is also kept below runs/, until the stage has finished.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path

from mlops.places import runs_root


class UnfinishedFiles:
    """Files of one stage, found by name. Losing them costs time and nothing else."""

    def __init__(self, stage: str) -> None:
        self.directory = runs_root() / f".{stage}"

    def keep(self, path: Path) -> None:
        """Keep the finished file at `path` by a second link, without copying it."""
        self.directory.mkdir(parents=True, exist_ok=True)
        # Another file system, or one without links: then it is made again.
        with suppress(OSError):
            os.link(path, self.directory / path.name)

    def find(self, name: str) -> bytes | None:
        try:
            return (self.directory / name).read_bytes()
        except FileNotFoundError:
            return None

    def clear(self) -> None:
        """The stage has finished: its outs hold everything."""
        shutil.rmtree(self.directory, ignore_errors=True)
