"""Stop flag: signals set it, and the work checks it at places from which it can go on.

| signal | sent by | exit code |
| --- | --- | --- |
| SIGTERM | batch systems, `docker stop`, a spot machine that is taken away | 143 |
| SIGINT | Ctrl-C | 130 |
| SIGUSR1 | `#SBATCH --signal=B:USR1@120`, ahead of a time limit: run me again | 75 |

75 is EX_TEMPFAIL of sysexits.h, on which a batch script puts the job into the queue again. All
three are no success to DVC, which would else record half a result.
"""

import signal
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import TypeVar

T = TypeVar("T")

EXIT_CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGUSR1: 75}


class StoppedError(Exception):
    """Work was left at a place from which it can go on; `exit_code` is the process's."""

    def __init__(self, reason: str, exit_code: int) -> None:
        super().__init__(f"stopped by {reason}; run the same command again, which goes on here")
        self.reason = reason
        self.exit_code = exit_code


class StopFlag:
    """Set by signals, which do nothing else: a handler runs between any two lines.

    The handlers are installed even where a signal came in as ignored, as SIGINT does in what a
    script starts in the background, DVC's queue among it.
    """

    def __init__(self) -> None:
        self._stopped: StoppedError | None = None
        for number in EXIT_CODES:
            signal.signal(number, self._on_signal)

    def set(self, reason: str, exit_code: int = 143) -> None:
        """Ask for a stop; the first reason given counts."""
        self._stopped = self._stopped or StoppedError(reason, exit_code)

    @property
    def exit_code(self) -> int:
        """The exit code of a process that stops now; 0 unless a stop was requested."""
        return 0 if self._stopped is None else self._stopped.exit_code

    def check(self) -> None:
        """Raise `StoppedError` if a stop was asked for."""
        if self._stopped is not None:
            raise self._stopped

    def checked(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the items, and check the flag before each."""
        for item in items:
            self.check()
            yield item

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.set(signal.Signals(number).name, EXIT_CODES[signal.Signals(number)])
