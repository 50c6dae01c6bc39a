"""Of the processes that want a device each gets its own, in turn, whatever ends the others.

The devices are names here: the locks ask for no GPU, and these tests have none.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mlops.errors import PipelineError
from mlops.files.locks import DeviceLocks
from mlops.processes.devices import candidates, claimed_devices

ROOT = Path(__file__).resolve().parents[2]
TWO = {"cuda:0": "GPU-aa", "cuda:1": "GPU-bb"}
NOBODY = 65534
HOST = socket.gethostname()
THREE = TWO | {"cuda:2": "GPU-cc"}

# Takes devices, marks each in a way that fails if another has it marked, and lets go of them when
# it is told to, or by itself after some seconds.
HOLDS = """
import json, os, select, sys
from pathlib import Path
from mlops.files.locks import DeviceLocks
directory, devices, count, seconds, user = Path(sys.argv[1]), *map(json.loads, sys.argv[2:])
if user is not None:
    os.setuid(user)
locks = DeviceLocks(
    work=f"work of {count}", log=print, check=sys.stdout.flush, directory=directory
)
with locks.hold(devices, count) as names:
    marks = [directory / f"{devices[name]}.mark" for name in names]
    for mark in marks:
        mark.open("x").close()
    print("holds", *names, flush=True)
    select.select([sys.stdin], [], [], seconds)
    for mark in marks:
        mark.unlink()
"""


class Process:
    def __init__(
        self,
        directory: Path,
        devices: dict[str, str],
        count: int = 1,
        *,
        seconds: float | None = None,
        user: int | None = None,
    ) -> None:
        words = [str(directory), *map(json.dumps, (devices, count, seconds, user))]
        self.popen = subprocess.Popen(
            [sys.executable, "-c", HOLDS, *words],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def says(self) -> str:
        assert self.popen.stdout is not None
        return self.popen.stdout.readline().strip()

    def lets_go(self) -> None:
        self.popen.communicate("\n", timeout=30)
        assert self.popen.returncode == 0


@pytest.fixture
def start(tmp_path: Path) -> Iterator[type[Process]]:
    """Yield the class to start processes with; they end with the test."""
    with ExitStack() as started:

        class Started(Process):
            def __init__(self, *arguments: object, **options: object) -> None:
                super().__init__(*arguments, **options)  # type: ignore[arg-type]
                started.enter_context(self.popen)
                started.callback(self.popen.kill)

        yield Started


def own(directory: Path, *, give_up_after: int = 1) -> tuple[DeviceLocks, list[str]]:
    """Return locks of this process that give up after some looks, and the lines they log."""
    said: list[str] = []
    looks = iter(range(give_up_after))

    def check() -> None:
        if next(looks, None) is None:
            raise TimeoutError

    return DeviceLocks(work="a test", log=said.append, check=check, directory=directory), said


def test_two_processes_take_two_devices(tmp_path: Path, start: type[Process]) -> None:
    assert start(tmp_path, TWO).says() == "holds cuda:0"
    assert start(tmp_path, TWO).says() == "holds cuda:1"


def test_one_who_waits_is_told_of_every_owner_and_leaves_nothing_locked(
    tmp_path: Path, start: type[Process]
) -> None:
    first = start(tmp_path, TWO)
    first.says()
    second = start(tmp_path, TWO)
    second.says()
    locks, said = own(tmp_path)
    with pytest.raises(TimeoutError), locks.hold(TWO, 1):
        pass
    (words,) = said
    assert words.startswith(
        f"waits for cuda:0, which process {first.popen.pid} on {HOST} (work of 1, since 20"
    )
    assert f" or cuda:1, which process {second.popen.pid} on {HOST} (work of 1, since 20" in words
    second.lets_go()
    assert start(tmp_path, TWO).says() == "holds cuda:1"


def test_a_kill_lets_the_next_one_in(tmp_path: Path, start: type[Process]) -> None:
    first = start(tmp_path, {"cuda:0": "GPU-aa"})
    first.says()
    second = start(tmp_path, {"cuda:0": "GPU-aa"})
    assert f"waits for cuda:0, which process {first.popen.pid} " in second.says()
    (tmp_path / "GPU-aa.mark").unlink()  # which the killed one cannot
    first.popen.send_signal(signal.SIGKILL)
    assert second.says() == "holds cuda:0"


def test_a_device_that_is_asked_for_is_waited_for_while_others_are_free(
    tmp_path: Path, start: type[Process]
) -> None:
    start(tmp_path, TWO).says()
    locks, said = own(tmp_path)
    with pytest.raises(TimeoutError), locks.hold({"cuda:0": "GPU-aa"}, 1):
        pass
    assert "cuda:0" in said[0]


def test_a_device_is_one_whatever_a_process_calls_it(tmp_path: Path, start: type[Process]) -> None:
    assert start(tmp_path, {"cuda:0": "GPU-bb"}).says() == "holds cuda:0"
    assert start(tmp_path, TWO).says() == "holds cuda:0"
    assert "waits for cuda:1" in start(tmp_path, {"cuda:1": "GPU-bb"}).says()


def test_one_who_gathers_several_keeps_what_he_has(tmp_path: Path, start: type[Process]) -> None:
    first = start(tmp_path, TWO)
    first.says()
    both = start(tmp_path, TWO, 2)
    assert "waits for cuda:0" in both.says()
    locks, _ = own(tmp_path)
    with pytest.raises(TimeoutError), locks.hold(TWO, 1):
        pass
    first.lets_go()
    assert both.says() == "holds cuda:1 cuda:0"


def test_of_two_who_want_several_the_second_waits_with_empty_hands(
    tmp_path: Path, start: type[Process]
) -> None:
    first = start(tmp_path, TWO)
    first.says()
    both = start(tmp_path, TWO, 2)
    both.says()
    # Should he take what is left now and then, each might end with one and wait for the other.
    after = start(tmp_path, dict(reversed(TWO.items())), 2)
    assert f"waits for the turn to take several, which process {both.popen.pid}" in after.says()
    first.lets_go()
    assert both.says() == "holds cuda:1 cuda:0"
    both.lets_go()
    assert "cuda:1" in after.says()  # his turn


def test_nobody_waits_for_ever_among_many_who_want_several(
    tmp_path: Path, start: type[Process]
) -> None:
    # Taken one after the other in another order each, these would soon wait for each other.
    orders = [THREE, dict(reversed(THREE.items()))]
    wanted = [2, 2, 3, 1, 2, 3, 1, 2]
    processes = [
        start(tmp_path, orders[number % 2], count, seconds=0.05)
        for number, count in enumerate(wanted)
    ]
    deadline = time.monotonic() + 60
    for process in processes:
        assert process.popen.wait(deadline - time.monotonic()) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root to become another user")
def test_another_user_waits_for_the_same_lock(start: type[Process]) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        directory = Path(name)
        directory.chmod(0o1777)
        first = start(directory, {"cuda:0": "GPU-aa"})
        first.says()
        second = start(directory, {"cuda:0": "GPU-aa"}, user=NOBODY)
        assert f"waits for cuda:0, which process {first.popen.pid} on {HOST} (" in second.says()
        first.lets_go()
        assert second.says() == "holds cuda:0"


def test_cpus_are_nobodys_own() -> None:
    def refuse(text: str) -> None:
        raise AssertionError(text)

    claim = {"count": 2, "work": "a test", "log": refuse, "check": lambda: None}
    with claimed_devices("cpu", **claim) as first, claimed_devices("cpu", **claim) as second:
        assert [device.type for device in first + second] == ["cpu"] * 4


def test_auto_is_any_device_and_a_number_is_that_one() -> None:
    assert candidates("auto", 3, 1) == candidates("cuda", 3, 2) == ["cuda:0", "cuda:1", "cuda:2"]
    assert candidates("cuda:1", 3, 1) == ["cuda:1"]


@pytest.mark.parametrize(("requested", "found"), [("auto", "3 of the 3"), ("cuda:1", "1 of the 3")])
def test_more_devices_than_there_are_is_refused(requested: str, found: str) -> None:
    with pytest.raises(PipelineError, match=f"expected 4 devices, got '{requested}', .* {found}"):
        candidates(requested, 3, 4)
