"""A command that is told to end when the process that started it has ended.

    python -m mlops.processes.with_parent PID COMMAND …

PID is that process. A kernel that is killed, as one that is restarted may be, would else leave
DVC and its training at work where nobody sees them.
"""

import os
import signal
import sys

from mlops.processes.parent import signal_with_parent


def main(parent: int, command: list[str]) -> None:
    signal_with_parent(signal.SIGTERM)
    # It may have ended before it was watched.
    if os.getppid() != parent:
        sys.exit(f"{command[0]}: the process {parent} that asked for this has ended")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
