"""Progress is a bar on a terminal and plain lines elsewhere; the items pass unchanged."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mlops.processes.progress import track

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import time
from mlops.processes import progress
progress.LINE_EVERY_SEC = {every}
for _ in progress.track(range(5), total=5, task="decode"):
    time.sleep(0.05)
print("end")
"""


def piped(every: float) -> list[str]:
    command = [sys.executable, "-c", SCRIPT.format(every=every)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()


def test_items_pass_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track("abc", total=3, task="decode")) == ["a", "b", "c"]
    assert capsys.readouterr().out == ""


def test_without_a_terminal_a_line_says_count_rate_and_time_left() -> None:
    *lines, end = piped(every=0.001)
    assert end == "end"
    assert len(lines) == 4
    for done, line in enumerate(lines, start=1):
        match = re.fullmatch(r"decode: (\d) of 5, (\d+\.\d)/s, about \d+ s left", line)
        assert match is not None
        assert int(match[1]) == done
        assert 0 < float(match[2]) <= 20  # each item takes 0.05 s


def test_a_short_task_says_nothing() -> None:
    assert piped(every=10) == ["end"]


def test_an_exception_of_the_items_passes_through() -> None:
    with pytest.raises(ZeroDivisionError):
        list(track((1 / n for n in (1, 0)), total=2, task="decode"))


def test_on_a_terminal_there_is_a_bar() -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(every=0)],
        cwd=ROOT,
        env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "100"},
        stdout=theirs,
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 4096)
        except OSError:  # the other side was closed
            break
    os.close(ours)
    assert process.wait() == 0
    assert "━━━".encode() in shown
    assert b"5/5" in shown
    assert b"decode: " not in shown
