"""The log of an attempt: all that its process prints, from Python and from C, in a file.

The descriptors 1 and 2 lead to a second process, `mlops.run.log_writer`, which copies to where they
led before and to `logs/attempt_NNN.log`. A process that aborts or is killed by SIGKILL leaves its
last words in the file, since the writer reads until no one can write any more. Where stdout is a
terminal the process still sees one: it is given a pseudo-terminal. The file gets plain text, of a
progress bar the last drawing alone.

Of stdout and stderr the order is exact where both lead to the same place, as under DVC and in a
batch job; where they do not, lines within about a millisecond of each other may change places.

A log never ends a training: on a full disk the file lacks lines, a terminal that has gone takes
none, and a writer that is killed leaves stdout and stderr as they were before.
"""

import contextlib
import faulthandler
import fcntl
import os
import socket
import subprocess
import sys
import termios
import threading
import traceback
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlops.run.attempts import log_name

STDOUT, STDERR = 1, 2
# How long the last lines are waited for: a stopped terminal may take none.
_PATIENCE_SEC = 2.0


@contextmanager
def attempt_log(run_dir: Path, number: int) -> Iterator[None]:
    """Write what this process and its children print to the attempt's log, until the block ends.

    An error that leaves the block ends the log with its traceback: whoever catches it prints it
    where this log does not see it.
    """
    path = run_dir / log_name(number)
    channels = None
    try:
        file = _open(path)
        channels = _Channels(file)
    except OSError as error:
        print(f"{path}: no log is written ({error.strerror})", file=sys.stderr)
    if channels is None:
        yield
        return
    traces_crashes = not faulthandler.is_enabled()
    if traces_crashes:
        faulthandler.enable(file=STDERR)
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        channels.close()
        _append(file, "".join(traceback.format_exception(error)))
        raise
    finally:
        channels.close()
        if traces_crashes:
            faulthandler.disable()
        os.close(file)


class _Channels:
    """The ways from this process's stdout and stderr to the writer; one where both are one."""

    def __init__(self, file: int) -> None:
        self._before = {STDOUT: os.dup(STDOUT), STDERR: os.dup(STDERR)}
        self._lock = threading.Lock()
        self._restored = False
        _flush()
        shared = os.path.samestat(os.fstat(STDOUT), os.fstat(STDERR))
        entries = {}
        # Kept open here: were the writer to die, writing would else fail at once.
        self._sources: dict[int, int] = {}
        for stream in (STDOUT,) if shared else (STDOUT, STDERR):
            source, entries[stream] = _channel(self._before[stream])
            self._sources[source] = self._before[stream]
        self._control, control = socket.socketpair()
        self._writer = _start_writer(file, control.fileno(), self._sources)
        control.close()
        os.dup2(entries[STDOUT], STDOUT)
        os.dup2(entries.get(STDERR, entries[STDOUT]), STDERR)
        for entry in entries.values():
            os.close(entry)
        self._outliving = threading.Thread(target=self._outlive_writer, daemon=True)
        self._outliving.start()

    def close(self) -> None:
        """Put stdout and stderr back, once all that was printed has arrived."""
        _flush()
        if self._restore():
            # The writer's end would be too late: it also copies for children that live on.
            self._control.settimeout(_PATIENCE_SEC)
            with contextlib.suppress(OSError):
                self._control.sendall(b"?")
                self._control.recv(1)
            self._control.close()
        else:  # the writer was killed
            self._outliving.join(_PATIENCE_SEC)

    def _restore(self) -> bool:
        with self._lock:
            if self._restored:
                return False
            for stream, before in self._before.items():
                os.dup2(before, stream)
            self._restored = True
            return True

    def _outlive_writer(self) -> None:
        self._writer.wait()
        self._restore()
        # What a writer that was killed has left unread, and what children still print.
        threads = [
            threading.Thread(target=_forward, args=pair, daemon=True)
            for pair in self._sources.items()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for before in self._before.values():
            os.close(before)


def _forward(source: int, target: int) -> None:
    with open(source, "rb") as lines, contextlib.suppress(OSError):
        # Whole lines: this process prints in between.
        for line in lines:
            os.write(target, line)


def _open(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)


def _channel(target: int) -> tuple[int, int]:
    """Where the writer reads and where this process writes: a terminal if `target` is one."""
    if not os.isatty(target):
        return os.pipe()
    source, entry = os.openpty()
    # The true terminal changes the ends of lines; twice would be once too often.
    tty.setraw(entry)
    size = fcntl.ioctl(target, termios.TIOCGWINSZ, bytes(8))
    fcntl.ioctl(entry, termios.TIOCSWINSZ, size)
    return source, entry


def _start_writer(file: int, control: int, sources: dict[int, int]) -> subprocess.Popen[bytes]:
    script = Path(__file__).with_name("log_writer.py")
    pairs = [f"{source}:{target}" for source, target in sources.items()]
    return subprocess.Popen(
        [sys.executable, "-I", "-S", str(script), str(file), str(control), *pairs],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=[file, control, *sources, *sources.values()],
        # So that Ctrl-C and a kill of the group leave it to write the last lines.
        start_new_session=True,
    )


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()


def _append(file: int, text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(file, text.encode(errors="replace"))
