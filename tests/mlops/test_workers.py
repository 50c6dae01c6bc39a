"""Work over processes gives what one process gives, and faults arrive where they can be told."""

import ctypes
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from mlops.errors import PipelineError
from mlops.workers.pool import Executor, map_tasks
from tests.support.live_processes import is_running, outliving

ROOT = Path(__file__).resolve().parents[2]

# Workers import this module to find the functions.


def slower_at_first(task: int) -> int:
    time.sleep(0.2 if task == 0 else 0)
    return task * task


def meet(task: tuple[Path, int]) -> int:
    """Wait until so many processes work at once."""
    directory, workers = task
    (directory / str(os.getpid())).touch()
    deadline = time.monotonic() + 20
    while len(list(directory.iterdir())) < workers and time.monotonic() < deadline:
        time.sleep(0.01)
    return os.getpid()


def fail_at_2(task: int) -> int:
    if task == 2:
        raise PipelineError("video.mp4: expected frames, got none; remove it", "a second fault")
    return task


def divide(task: int) -> float:
    return 1 / task


def die(task: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(path: Path) -> str:
    if not path.exists():
        path.touch()
        die(0)
    return path.name


def mark(path: Path) -> None:
    path.touch()
    time.sleep(0.05)


def mark_or_fail(path: Path) -> None:
    if path.name == "0":
        raise ValueError(path.name)
    mark(path)


def announce(task: int) -> int:
    time.sleep(0.1)
    return os.getpid()


def hold_the_interpreter(task: int) -> None:
    """Let no other thread of the process run, as a decoder that hangs in C may not."""
    print(os.getpid(), flush=True)
    ctypes.PyDLL(None).sleep(60)


def map_processes(
    function: Callable[[Any], Any], tasks: Sequence[Any], *, workers: int
) -> Iterator[Any]:
    return map_tasks(function, tasks, Executor(executor="processes", workers=workers))


def main() -> None:
    """Run tasks without end and tell the workers' process ids."""
    function = {"announce": announce, "hold": hold_the_interpreter}[sys.argv[1]]
    for number in map_processes(function, range(10_000), workers=2):
        print(number, flush=True)


def test_results_come_in_the_order_of_the_tasks() -> None:
    assert list(map_processes(slower_at_first, range(6), workers=2)) == [0, 1, 4, 9, 16, 25]


def test_the_number_of_workers_does_not_change_the_results() -> None:
    one, two = (list(map_processes(slower_at_first, range(6), workers=n)) for n in (1, 2))
    assert one == two


@pytest.mark.parametrize("workers", [2, 3])
def test_several_workers_are_as_many_other_processes(tmp_path: Path, workers: int) -> None:
    tasks = [(tmp_path, workers)] * 4 * workers
    processes = set(map_processes(meet, tasks, workers=workers))
    assert len(processes) == workers
    assert os.getpid() not in processes


def test_one_worker_is_this_process() -> None:
    assert set(map_processes(announce, range(2), workers=1)) == {os.getpid()}


@pytest.mark.parametrize("workers", [1, 2])
def test_without_tasks_there_are_no_results(workers: int) -> None:
    assert list(map_processes(slower_at_first, [], workers=workers)) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_the_faults_of_a_task_pass_through(workers: int) -> None:
    with pytest.raises(PipelineError) as caught:
        list(map_processes(fail_at_2, range(4), workers=workers))
    assert list(caught.value.faults) == [
        "video.mp4: expected frames, got none; remove it",
        "a second fault",
    ]


def test_another_exception_of_a_task_passes_through_with_its_place() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        list(map_processes(divide, [1, 0], workers=2))
    assert "return 1 / task" in caught.value.__notes__[0]


def test_a_fault_ends_the_work(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(40)]
    with pytest.raises(ValueError, match="0"):
        list(map_processes(mark_or_fail, paths, workers=2))
    assert len(list(tmp_path.iterdir())) < 39


def test_who_stops_taking_results_stops_the_work(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(40)]
    results = map_processes(mark, paths, workers=2)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert len(list(tmp_path.iterdir())) < 40


def test_a_killed_worker_is_told_with_the_remedy() -> None:
    with pytest.raises(PipelineError) as caught:
        list(map_processes(die, range(6), workers=2))
    assert str(caught.value) == (
        f"a task ended its worker process twice (signal SIGKILL, on {platform.node()}), as the "
        "system does when memory runs out; lower runtime.workers and run the same command again"
    )


def test_a_task_whose_worker_was_killed_once_is_done_by_another(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "abc"]
    assert list(map_processes(die_once, paths, workers=2)) == ["a", "b", "c"]


@pytest.mark.parametrize("task", ["announce", "hold"])
def test_workers_end_when_their_parent_is_killed(task: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, __file__, task],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert parent.stdout is not None
    workers: set[int] = set()
    while len(workers) < 2:
        workers.add(int(parent.stdout.readline()))
    assert all(is_running(worker) for worker in workers)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    assert outliving(workers, 10) == []


if __name__ == "__main__":
    main()
