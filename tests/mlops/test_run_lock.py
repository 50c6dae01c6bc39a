"""Of the processes with one identity one works; the others wait, and are told for whom."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mlops.files.locks import run_lock

ROOT = Path(__file__).resolve().parents[2]
IDENTITY = "0123456789abcdef" * 4

HOLDS = """
import os
import sys
from pathlib import Path
from mlops.files.locks import run_lock
with run_lock(Path(sys.argv[1]), sys.argv[2], log=print, check=lambda: None):
    print("held", flush=True)
    sys.stdin.readline()
"""

FORKS = HOLDS.replace(
    "    print", "    if not os.fork(): os._exit(bool(sys.stdin.readline()))\n    print"
)


@contextmanager
def held(
    base: Path, identity: str = IDENTITY, program: str = HOLDS
) -> Iterator[subprocess.Popen[str]]:
    """Start a process that holds the lock until it is sent a line or killed."""
    with subprocess.Popen(
        [sys.executable, "-c", program, str(base), identity],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


class GivenUpError(Exception):
    pass


def waits(base: Path, looks: int = 3, then: Callable[[], object] | None = None) -> list[str]:
    """Wait for the lock; return the lines logged; after some looks call `then` or give up."""
    said: list[str] = []
    count = 0

    def check() -> None:
        nonlocal count
        count += 1
        if count == looks:
            if then is None:
                raise GivenUpError
            then()
        assert count < looks + 50, "the lock is never let go of"

    with run_lock(base, IDENTITY, log=said.append, check=check):
        return said


def test_a_free_lock_is_taken_without_a_word(tmp_path: Path) -> None:
    assert waits(tmp_path) == []
    assert waits(tmp_path) == []


def test_one_who_waits_is_told_once_for_whom_and_can_give_up(tmp_path: Path) -> None:
    said: list[str] = []

    def give_up() -> None:
        time.sleep(0.01)
        if len(said) != 1 or time.monotonic() > deadline:
            raise GivenUpError

    with held(tmp_path) as process:
        deadline = time.monotonic() + 0.5
        with (
            pytest.raises(GivenUpError),
            run_lock(tmp_path, IDENTITY, log=said.append, check=give_up),
        ):
            pass
    (words,) = said
    owner = f"process {process.pid} on {socket.gethostname()} (training, since 20"
    assert words.startswith(f"waits for the lock of the same fingerprint, which {owner}")


def test_the_end_of_the_work_lets_the_next_one_in(tmp_path: Path) -> None:
    with held(tmp_path) as process:
        assert process.stdin is not None
        (words,) = waits(tmp_path, then=lambda: process.communicate("\n"))
    assert f"process {process.pid} " in words


def test_a_kill_lets_the_next_one_in(tmp_path: Path) -> None:
    with held(tmp_path) as process:
        assert len(waits(tmp_path, then=lambda: process.send_signal(signal.SIGKILL))) == 1


def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    with held(tmp_path, program=FORKS) as process:
        assert len(waits(tmp_path, then=lambda: process.send_signal(signal.SIGKILL))) == 1


def test_the_owner_that_is_named_is_the_one_that_works_now(tmp_path: Path) -> None:
    with held(tmp_path) as first:
        first.kill()
    with held(tmp_path) as second:
        (words,) = waits(tmp_path, then=second.kill)
    assert f"process {second.pid} " in words


def test_another_identity_does_not_wait(tmp_path: Path) -> None:
    with held(tmp_path, "f" * 64):
        assert waits(tmp_path) == []


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_its_file_has_the_mode_that_the_umask_gives(umask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        waits(tmp_path)
    finally:
        os.umask(before)
    (path,) = (tmp_path / ".locks").iterdir()
    assert path.stat().st_mode & 0o777 == mode
