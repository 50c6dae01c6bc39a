"""Copies what a process prints to where it went before and, as plain text, to a file.

Run as a program of its own by `mlops.run.attempt_log`, so that it outlives the process and the last
words of one that was killed reach the file. Uses the standard library alone: it starts in 20 ms.

    python log_writer.py FILE CONTROL SOURCE:TARGET …      numbers of open descriptors
"""

import os
import re
import select
import selectors
import signal
import sys

# What only a terminal understands: colours, and moves of the cursor.
_CONTROL = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
# A line that never ends is written in pieces.
_LONGEST_LINE_BYTES = 1 << 20


class PlainLines:
    """The lines of a stream as a file should show them."""

    def __init__(self) -> None:
        self._rest = b""

    def add(self, content: bytes) -> bytes:
        """The lines that `content` completes, each with its end."""
        *lines, self._rest = (self._rest + content).split(b"\n")
        if len(self._rest) > _LONGEST_LINE_BYTES:
            # Of a progress bar drawn over and over only the last drawing counts.
            self._rest = self._rest[self._rest.rfind(b"\r", 0, -1) + 1 :]
        if len(self._rest) > _LONGEST_LINE_BYTES:
            lines, self._rest = [*lines, self._rest], b""
        return b"".join(_plain(line) for line in lines)

    def end(self) -> bytes:
        """What has come since the last line's end."""
        return _plain(self._rest) if self._rest else b""


def _plain(line: bytes) -> bytes:
    """A line as a terminal shows it at last: what was drawn over is gone."""
    drawn = _CONTROL.sub(b"", line).rstrip(b"\r")
    return drawn[drawn.rfind(b"\r") + 1 :] + b"\n"


def copy(file: int, control: int, targets: dict[int, int]) -> None:
    """Copy from each source to its target and to `file`, until no one can write to any source.

    A byte from `control` is answered when all that was written before it has been copied.
    """
    lines = {source: PlainLines() for source in targets}
    lost: set[int] = set()
    with selectors.DefaultSelector() as selector:

        def forward(source: int) -> None:
            content = _read(source)
            added = lines[source].add(content) if content else lines[source].end()
            _write(file, added)
            if not content:
                selector.unregister(source)
            elif targets[source] not in lost and not _write(targets[source], content):
                lost.add(targets[source])

        def ready(timeout: float | None) -> set[int]:
            return {key.fd for key, _ in selector.select(timeout)}

        for descriptor in (control, *targets):
            selector.register(descriptor, selectors.EVENT_READ)
        while targets.keys() & selector.get_map().keys():
            found = ready(None)
            for source in found - {control}:
                forward(source)
            if control in found:
                asked = _read(control)
                while asked and (sources := ready(0) - {control}):
                    for source in sources:
                        forward(source)
                if not asked or not _write(control, asked):
                    selector.unregister(control)


def _read(source: int) -> bytes:
    try:
        return os.read(source, 1 << 16)
    except OSError:  # a terminal that no one writes to any more
        return b""


def _write(target: int, content: bytes) -> bool:
    """Write all of it; False if a full disk or a closed terminal does not take it."""
    while content:
        try:
            content = content[os.write(target, content) :]
        except BlockingIOError:
            select.select([], [target], [])
        except OSError:
            return False
    return True


def main(arguments: list[str]) -> None:
    # It ends with the process whose output it copies, not before.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    file, control, *pairs = arguments
    targets = (pair.split(":") for pair in pairs)
    copy(int(file), int(control), {int(source): int(target) for source, target in targets})


if __name__ == "__main__":
    main(sys.argv[1:])
