"""A process is told from every other, and a stage notices that what started it has ended."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from commands.prove.processes import adopting_orphans, descendants
from mlops.processes.parent import is_alive, own_identity, start_ticks
from tests.support.clone import dvc, environment, git

ROOT = Path(__file__).resolve().parents[2]

# Tells by files what it is and what it notices, and takes no notice of SIGTERM.
STAGE = """
import os, signal, sys, time
from pathlib import Path
from mlops.processes.parent import watch_parent
place = Path(sys.argv[1])
signal.signal(signal.SIGTERM, lambda *_: (place / "sigterm").touch())
deaths = []
def on_death():
    deaths.append(1)
    (place / "deaths").write_text(str(len(deaths)))
watched = watch_parent(on_death)
(place / "new").write_text(f"{os.getpid()} {watched}")
(place / "new").rename(place / "stage")
for _ in range(600):
    time.sleep(0.1)
"""

# What DVC does: it starts a stage and waits for its end.
STARTS = {
    "directly": "subprocess.call([sys.executable, 'stage.py', '.'])",
    "through a shell": "subprocess.call(['sh', '-c', f'{sys.executable} stage.py .; true'])",
    "through two": (
        "subprocess.call(['bash', '-c', f'sh -c \"{sys.executable} stage.py .; :\"; :'])"
    ),
}


def wait_for(path: Path, seconds: float) -> str:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if path.exists():
            return path.read_text()
        time.sleep(0.02)
    raise AssertionError(f"no {path.name} within {seconds} s")


@contextmanager
def started(place: Path, how: str, dvc_root: str | None) -> Iterator[tuple[int, str, int]]:
    """Yield the starting process's number, what the stage watches, and the stage's number."""
    (place / "stage.py").write_text(STAGE)
    variables = environment() | {"PYTHONPATH": str(ROOT)}
    variables |= {"DVC_ROOT": dvc_root} if dvc_root else {}
    code = f"import subprocess, sys; {STARTS[how]}"
    with subprocess.Popen([sys.executable, "-c", code], cwd=place, env=variables) as parent:
        pid, watched = wait_for(place / "stage", 30).split()
        try:
            yield parent.pid, watched, int(pid)
        finally:
            for number in (parent.pid, int(pid)):
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)


@pytest.mark.parametrize("how", sorted(STARTS))
def test_a_stage_notices_that_dvc_was_killed(how: str, tmp_path: Path) -> None:
    with started(tmp_path, how, dvc_root=str(tmp_path)) as (parent, watched, _):
        assert watched == "True"
        time.sleep(1.5)  # more than one look at a parent that lives
        assert not (tmp_path / "deaths").exists()
        os.kill(parent, signal.SIGKILL)
        assert wait_for(tmp_path / "deaths", 3) == "1"
        time.sleep(1.5)
        assert (tmp_path / "deaths").read_text() == "1"


def test_a_stage_of_dvc_notices_that_dvc_was_killed(tmp_path: Path) -> None:
    (tmp_path / "stage.py").write_text(STAGE)
    (tmp_path / "dvc.yaml").write_text("stages:\n  train:\n    cmd: python stage.py .\n")
    git("init", "--quiet", cwd=tmp_path)
    dvc("init", "--quiet", cwd=tmp_path)
    command = [sys.executable, "-m", "dvc", "repro"]
    variables = environment() | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=tmp_path, env=variables) as process:
        stage, watched = wait_for(tmp_path / "stage", 60).split()
        assert watched == "True"
        time.sleep(1.5)
        assert not (tmp_path / "deaths").exists()
        process.kill()
        assert wait_for(tmp_path / "deaths", 3) == "1"
        os.kill(int(stage), signal.SIGKILL)


def test_the_kernel_tells_a_stage_of_its_direct_parent(tmp_path: Path) -> None:
    with started(tmp_path, "directly", dvc_root=str(tmp_path)) as (parent, _, _):
        os.kill(parent, signal.SIGKILL)
        wait_for(tmp_path / "sigterm", 3)


def test_a_stage_notices_a_parent_that_nobody_has_asked_for_its_end(tmp_path: Path) -> None:
    """As dvc is, killed below a program that does not wait for its children."""
    code = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {START!r}])"
    (tmp_path / "stage.py").write_text(STAGE)
    variables = environment() | {"PYTHONPATH": str(ROOT), "DVC_ROOT": str(tmp_path)}
    command = [sys.executable, "-c", f"{code}; time.sleep(60)"]
    with subprocess.Popen(command, cwd=tmp_path, env=variables) as careless:
        stage = int(wait_for(tmp_path / "stage", 30).split()[0])
        parent = int(Path(f"/proc/{stage}/stat").read_text().rsplit(")", 1)[1].split()[1])
        os.kill(parent, signal.SIGKILL)
        assert wait_for(tmp_path / "deaths", 3) == "1"
        os.kill(stage, signal.SIGKILL)
        careless.kill()


def test_a_stage_notices_that_dvc_was_killed_while_the_stage_was_importing(tmp_path: Path) -> None:
    """Also where it is adopted by a program that is not known to adopt orphans, as this one."""
    waits = "from pathlib import Path\nwhile not Path('imported').exists(): time.sleep(0.01)\n"
    noted = "import mlops.processes.parent, time\nopen('noted', 'w').close()\n"
    (tmp_path / "stage.py").write_text(noted + waits + STAGE)
    variables = environment() | {"PYTHONPATH": str(ROOT), "DVC_ROOT": str(tmp_path)}
    with (
        adopting_orphans(),
        subprocess.Popen([sys.executable, "-c", START], cwd=tmp_path, env=variables) as parent,
    ):
        wait_for(tmp_path / "noted", 30)
        (stage,) = descendants(parent.pid)
        try:
            parent.kill()
            parent.wait()
            (tmp_path / "imported").touch()
            assert wait_for(tmp_path / "deaths", 10) == "1"
        finally:
            stage.send(signal.SIGKILL)
            os.waitpid(stage.pid, 0)


START = "import subprocess, sys; " + STARTS["directly"]


def test_a_process_that_dvc_did_not_start_outlives_who_started_it(tmp_path: Path) -> None:
    with started(tmp_path, "directly", dvc_root=None) as (parent, watched, stage):
        assert watched == "False"
        os.kill(parent, signal.SIGKILL)
        time.sleep(2.5)
        assert not (tmp_path / "deaths").exists()
        assert not (tmp_path / "sigterm").exists()
        assert start_ticks(stage) is not None


def test_this_process_is_alive() -> None:
    assert is_alive(own_identity()) is True


@pytest.mark.parametrize(
    ("entry", "value", "alive"),
    [
        ("start_ticks", 1, False),  # another process has the number now
        ("boot", "00000000-0000-0000-0000-000000000000", False),
        ("host", "another", None),
        ("namespace", "pid:[1]", None),
    ],
)
def test_another_process_is_not_taken_for_it(entry: str, value: object, alive: bool | None) -> None:
    assert is_alive(own_identity() | {entry: value}) is alive


def test_a_process_that_has_ended_is_not_alive_though_nobody_asked_how() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        ticks = start_ticks(process.pid)
        identity = own_identity() | {"pid": process.pid, "start_ticks": ticks}
        assert is_alive(identity) is True
        process.kill()
        deadline = time.monotonic() + 10
        while is_alive(identity) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert Path(f"/proc/{process.pid}").exists()  # a zombie until it is waited for
        assert is_alive(identity) is False
    assert start_ticks(process.pid) is None
