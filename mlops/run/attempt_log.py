"""The log of an attempt: all that its process prints, from Python and from C, in a file.

The descriptors 1 and 2 lead to a second process, this file run as a program, which copies to where
they led before and to `logs/attempt_NNN.log`. A process that aborts or is killed by SIGKILL leaves
its last words in the file, since the writer reads until no one can write any more. (A thread would
not do: code in C that prints much while it holds Python's lock would wait for ever.) If stdout is a
terminal the process still sees one: it is given a pseudo-terminal. The file gets plain text, of a
progress bar the last drawing alone.

The order of stdout and stderr is exact if both lead to the same place, as under DVC and in a batch
job; otherwise lines within about a millisecond of each other may change places.

A log never ends a training: on a full disk the file lacks lines, a terminal that has gone takes
none, and a writer that is killed is started again.
"""

import contextlib
import faulthandler
import fcntl
import os
import re
import select
import selectors
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
import traceback
import tty
from collections.abc import Iterator
from pathlib import Path

STDOUT, STDERR = 1, 2
# Of the writer: its stdin is how it is asked, its stdout the file.
_CONTROL, _FILE = 0, 1
# How long the last lines are waited for: a stopped terminal may take none.
_PATIENCE_SEC = 2.0
# Between the end of a writer and the start of the next.
_PAUSE_SEC = 0.1

# What only a terminal understands: colors, and moves of the cursor.
_ESCAPES = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
# A line that never ends is written in pieces.
_MAX_LINE_BYTES = 1 << 20


def log_name(number: int) -> str:
    """Return the log of an attempt, below the run directory."""
    return f"logs/attempt_{number:03}.log"


@contextlib.contextmanager
def attempt_log(run_dir: Path, number: int) -> Iterator[None]:
    """Write what this process and its children print to the attempt's log, until the block ends.

    An error that leaves the block ends the log with its traceback: whoever catches it prints it
    where this log does not see it.
    """
    path = run_dir / log_name(number)
    try:
        channels = _Channels(path)
    except OSError as error:
        print(f"{path}: no log is written ({error.strerror})", file=sys.stderr)
        yield
        return
    traces_crashes = not faulthandler.is_enabled()
    if traces_crashes:
        faulthandler.enable(file=STDERR)
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        channels.close()
        with contextlib.suppress(OSError), path.open("ab") as file:
            file.write("".join(traceback.format_exception(error)).encode(errors="replace"))
        raise
    finally:
        channels.close()
        if traces_crashes:
            faulthandler.disable()


class _Channels:
    """The ways from this process's stdout and stderr to the writer; one if both are one."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")
        self._before = {STDOUT: os.dup(STDOUT), STDERR: os.dup(STDERR)}
        self._asking, self._asked = socket.socketpair()
        self._is_open = True
        _flush()
        shared = os.path.samestat(os.fstat(STDOUT), os.fstat(STDERR))
        entries = {}
        # Kept open here, for the next writer to read what a killed one has left.
        self._sources: dict[int, int] = {}
        for stream in (STDOUT,) if shared else (STDOUT, STDERR):
            source, entries[stream] = _channel(self._before[stream])
            self._sources[source] = self._before[stream]
        writer = self._start_writer()
        for stream in self._before:
            os.dup2(entries.get(stream, entries[STDOUT]), stream)
        for entry in entries.values():
            os.close(entry)
        threading.Thread(target=self._keep_writing, args=[writer], daemon=True).start()

    def close(self) -> None:
        """Restore stdout and stderr, once all that was printed has arrived."""
        if not self._is_open:
            return
        _flush()
        self._restore()
        # The writer's end would be too late: it also copies for children that live on.
        with contextlib.suppress(OSError), self._asking:
            self._asking.settimeout(_PATIENCE_SEC)
            self._asking.sendall(b"?")
            self._asking.recv(1)

    def _restore(self) -> None:
        self._is_open = False
        for stream, before in self._before.items():
            os.dup2(before, stream)

    def _start_writer(self) -> subprocess.Popen[bytes]:
        pairs = [f"{source}:{target}" for source, target in self._sources.items()]
        return subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, *pairs],
            stdin=self._asked.fileno(),
            stdout=self._file,
            stderr=subprocess.DEVNULL,
            pass_fds=[*self._sources, *self._sources.values()],
            # So that Ctrl-C and a kill of the group leave it to write the last lines.
            start_new_session=True,
        )

    def _keep_writing(self, writer: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(OSError):
            while writer.wait() != 0:
                time.sleep(_PAUSE_SEC)
                writer = self._start_writer()
        if self._is_open:
            self._restore()
        for descriptor in (*self._sources, *self._before.values()):
            os.close(descriptor)
        self._asked.close()
        self._file.close()


def _channel(target: int) -> tuple[int, int]:
    """Return where the writer reads and where this process writes: a terminal if `target` is."""
    if not os.isatty(target):
        return os.pipe()
    source, entry = os.openpty()
    # The true terminal changes the ends of lines; twice would be once too often.
    tty.setraw(entry)
    size = fcntl.ioctl(target, termios.TIOCGWINSZ, bytes(8))
    fcntl.ioctl(entry, termios.TIOCSWINSZ, size)
    return source, entry


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()


# What follows runs in the writer.


class PlainLines:
    """The lines of a stream as a file should show them."""

    def __init__(self) -> None:
        self._rest = b""

    def add(self, content: bytes) -> bytes:
        """Return the lines that `content` completes, each with its end."""
        *lines, self._rest = (self._rest + content).split(b"\n")
        if len(self._rest) > _MAX_LINE_BYTES:
            # Of a progress bar drawn over and over only the last drawing counts.
            self._rest = self._rest[self._rest.rfind(b"\r", 0, -1) + 1 :]
        if len(self._rest) > _MAX_LINE_BYTES:
            lines, self._rest = [*lines, self._rest], b""
        return b"".join(_plain(line) for line in lines)

    def end(self) -> bytes:
        """Return what has come since the last line's end."""
        return _plain(self._rest) if self._rest else b""


def _plain(line: bytes) -> bytes:
    """Return a line as a terminal shows it at last: what was drawn over is gone."""
    drawn = _ESCAPES.sub(b"", line).rstrip(b"\r")
    return drawn[drawn.rfind(b"\r") + 1 :] + b"\n"


def _copy(targets: dict[int, int]) -> None:
    """Copy from each source to its target and to the file, until no one can write to any source.

    A byte that comes as a question is answered when nothing is left to read.
    """
    lines = {source: PlainLines() for source in targets}
    lost: set[int] = set()
    asked = b""
    with selectors.DefaultSelector() as selector:
        for descriptor in (_CONTROL, *targets):
            selector.register(descriptor, selectors.EVENT_READ)
        while targets.keys() & selector.get_map().keys():
            ready = {key.fd for key, _ in selector.select(0 if asked else None)}
            if not ready:
                _write(_CONTROL, asked)
                asked = b""
            for source in ready:
                content = _read(source)
                if not content:
                    selector.unregister(source)
                if source == _CONTROL:
                    asked = content
                    continue
                _write(_FILE, lines[source].add(content) if content else lines[source].end())
                if source not in lost and not _write(targets[source], content):
                    lost.add(source)


def _read(source: int) -> bytes:
    try:
        return os.read(source, 1 << 16)
    except OSError:  # a terminal that no one writes to any more
        return b""


def _write(target: int, content: bytes) -> bool:
    """Write all of it; return False if a full disk or a closed terminal does not take it."""
    while content:
        try:
            content = content[os.write(target, content) :]
        except BlockingIOError:
            select.select([], [target], [])
        except OSError:
            return False
    return True


if __name__ == "__main__":
    # It ends with the process whose output it copies, not before.
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
        signal.signal(ignored, signal.SIG_IGN)
    _copy({int(source): int(target) for source, target in (a.split(":") for a in sys.argv[1:])})
