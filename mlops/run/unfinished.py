"""What a run of a stage had made when it was killed or failed.

DVC deletes a stage's outs before it runs the command, and keeps none of a run that did not finish.
So what took long is also kept below runs/, until the stage has finished.
"""

import os
import re
from contextlib import suppress
from pathlib import Path

from mlops.files import atomic
from mlops.files.places import runs_root


class UnfinishedFiles:
    """Files of one stage, found by name. Losing them costs time and nothing else.

    `names` is a pattern that the names of all of them match, and no others are ever removed.
    """

    def __init__(self, stage: str, names: str) -> None:
        self.directory = runs_root() / f".{stage}"
        self._names = re.compile(names)

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
        """Remove them: the stage has finished, and its outs hold everything."""
        if self.directory.is_symlink() or not self.directory.is_dir():
            return
        with suppress(OSError):  # what cannot be removed costs room, and no result
            atomic.remove_half_written(self.directory)
            for path in self.directory.iterdir():
                if self._names.fullmatch(path.name):
                    atomic.remove_file(path)
            self.directory.rmdir()
