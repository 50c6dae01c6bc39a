"""A signal sets a flag and does nothing else; what looks at the flag leaves where it can go on."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

WORKS = """
import sys
from mlops.stage import run_command
from mlops.processes.signals import StopFlag
def main():
    stop = StopFlag()
    print("ready", flush=True)
    for line in sys.stdin:
        print("went on", flush=True)
        if line == "look\\n":
            stop.check()
run_command("train", main)
"""


def sent(*numbers: int, ignored: bool = False) -> tuple[int, str, str]:
    """Exit code and output of a process that gets signals at a place it cannot be left at."""
    ignoring = "trap '' TERM INT USR1; " if ignored else ""
    with subprocess.Popen(
        ["sh", "-c", f'{ignoring}exec "$@"', "sh", sys.executable, "-c", WORKS],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for number in numbers:
            process.send_signal(number)
            process.stdin.write("work\n")
            process.stdin.flush()
            assert process.stdout.readline() == "went on\n"
        output, errors = process.communicate("look\nlook\n")
    return process.returncode, output, errors


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 75)]
)
def test_work_goes_on_to_where_it_can_be_left_and_the_exit_code_tells_the_signal(
    number: signal.Signals, code: int, ignored: bool
) -> None:
    words = f"stopped by {number.name}; run the same command again, which goes on here"
    assert sent(number, ignored=ignored) == (code, "went on\n", f"train: {words}\n")


def test_of_several_signals_the_first_counts() -> None:
    code, _, errors = sent(signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)
    assert code == 75
    assert errors.startswith("train: stopped by SIGUSR1;")


def test_without_a_signal_nothing_stops() -> None:
    assert sent() == (0, "went on\nwent on\n", "")


LOOKS_BEFORE_EACH = """
import os, signal
from mlops.processes.signals import StopFlag, StoppedError
stop = StopFlag()
seen = []
try:
    for item in stop.checked(range(5)):
        seen.append(item)
        if item == 2:
            os.kill(os.getpid(), signal.SIGTERM)
except StoppedError as error:
    print(seen, error.reason, error.exit_code)
"""


def test_of_items_none_follows_the_signal() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOOKS_BEFORE_EACH],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[0, 1, 2] SIGTERM 143\n"
