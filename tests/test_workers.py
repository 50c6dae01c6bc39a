"""Work over processes gives what one process gives, and faults arrive where they can be told."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlops.errors import PipelineError
from mlops.workers import Fault, Limits, map_guarded, map_processes

ROOT = Path(__file__).resolve().parents[1]

# Spawned workers import this module to find the functions.


def slower_at_first(task: int) -> int:
    time.sleep(0.2 if task == 0 else 0)
    return task * task


def meet(directory: Path) -> int:
    """Wait until two processes work at once."""
    (directory / str(os.getpid())).touch()
    deadline = time.monotonic() + 20
    while len(list(directory.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    return os.getpid()


def fail_at_2(task: int) -> int:
    if task == 2:
        raise PipelineError("video.mp4: expected frames, got none; remove it", "a second fault")
    return task


def divide(task: int) -> float:
    return 1 / task


def killed_at_2(task: int) -> int:
    if task == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return task


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


def misbehave(task: str) -> str:
    """Do what the task says, else give it back."""
    if task == "hang":
        while True:
            time.sleep(1)
    if task == "hang deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            pass
    if task == "eat":
        eaten = []
        while True:
            eaten.append(bytearray(os.urandom(1000) * 1000))
    if task == "ask for too much":
        bytearray(10**12)
    if task == "peak":
        bytearray(os.urandom(1000) * 300_000)
    if task == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if task == "segfault":
        signal.raise_signal(signal.SIGSEGV)
    if task == "exit":
        os._exit(3)
    return task


def poison(task: int) -> int:
    """A worker that has seen task 1 dies at its next one."""
    if os.environ.get("POISONED"):
        os._exit(1)
    if task == 1:
        os.environ["POISONED"] = "1"
    return task


def process_of(task: int) -> int:
    return os.getpid()


class Unimportable:
    """Cannot be unpickled in a worker."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (sys.exit, ("cannot start",))

    def __call__(self, task: int) -> int:
        return task


GUARD = Limits(time_sec=1.0, memory_mb=100)
TIMEOUT = Fault(kind="timeout", reason="took more than 1 s")
OUT_OF_MEMORY = Fault(kind="out_of_memory", reason="took more than 100 MB of memory")


def crash(how: str) -> Fault:
    return Fault(kind="crashed", reason=f"ended the process that read it ({how})")


def main() -> None:
    """Run tasks without end and tell the workers' process ids."""
    for number in map_processes(announce, range(10_000), workers=2):
        print(number, flush=True)


def test_results_come_in_the_order_of_the_tasks() -> None:
    assert list(map_processes(slower_at_first, range(6), workers=2)) == [0, 1, 4, 9, 16, 25]


def test_the_number_of_workers_does_not_change_the_results() -> None:
    one, two = (list(map_processes(slower_at_first, range(6), workers=n)) for n in (1, 2))
    assert one == two


def test_two_workers_are_two_other_processes(tmp_path: Path) -> None:
    processes = set(map_processes(meet, [tmp_path] * 2, workers=2))
    assert len(processes) == 2
    assert os.getpid() not in processes


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
    assert "return 1 / task" in str(caught.value.__cause__)


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
        list(map_processes(killed_at_2, range(6), workers=2))
    assert str(caught.value) == (
        "a worker process was killed, as the system does when memory runs out; lower "
        "runtime.workers and run the same command again"
    )


@pytest.mark.parametrize(
    ("task", "fault"),
    [
        ("hang", TIMEOUT),
        ("hang deaf", TIMEOUT),
        ("eat", OUT_OF_MEMORY),
        ("ask for too much", OUT_OF_MEMORY),
        ("peak", OUT_OF_MEMORY),
        ("die", crash("signal SIGKILL")),
        ("segfault", crash("signal SIGSEGV")),
        ("exit", crash("exit code 3")),
    ],
)
def test_a_task_that_misbehaves_costs_its_own_result_only(task: str, fault: Fault) -> None:
    tasks = ["a", task, "b", "c"]
    assert list(map_guarded(misbehave, tasks, workers=1, limits=GUARD)) == ["a", fault, "b", "c"]


def test_the_number_of_guarded_workers_does_not_change_the_results() -> None:
    tasks = ["a", "hang", "b", "die", "eat", "c", "hang", "d"]
    one, three = (list(map_guarded(misbehave, tasks, workers=n, limits=GUARD)) for n in (1, 3))
    assert one == three
    assert one == [
        "a", TIMEOUT, "b", crash("signal SIGKILL"), OUT_OF_MEMORY, "c", TIMEOUT, "d",
    ]  # fmt: skip


def test_what_an_earlier_task_broke_is_not_held_against_the_next() -> None:
    assert list(map_guarded(poison, [0, 1, 2, 3], workers=1, limits=GUARD)) == [0, 1, 2, 3]


def test_guarded_workers_live_on() -> None:
    processes = set(map_guarded(process_of, range(20), workers=2, limits=GUARD))
    assert 1 <= len(processes) <= 2
    assert os.getpid() not in processes


def test_a_slow_taker_of_results_makes_no_timeouts() -> None:
    results = map_guarded(misbehave, ["a", "b", "c"], workers=1, limits=GUARD)
    taken = []
    for result in results:
        taken.append(result)
        time.sleep(1.2)
    assert taken == ["a", "b", "c"]


def test_without_guarded_tasks_there_are_no_results() -> None:
    assert list(map_guarded(misbehave, [], workers=2, limits=GUARD)) == []


def test_an_exception_of_a_guarded_task_is_raised_with_its_place() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        list(map_guarded(divide, [1, 0], workers=2, limits=GUARD))
    assert "return 1 / task" in caught.value.__notes__[0]


def test_a_guarded_worker_that_cannot_start_fails_the_work() -> None:
    with pytest.raises(PipelineError, match=r"ended before it could work \(exit code 1\)"):
        list(map_guarded(Unimportable(), [1], workers=1, limits=GUARD))


def test_no_guarded_worker_is_left_when_the_taker_stops() -> None:
    results = map_guarded(process_of, range(20), workers=2, limits=GUARD)
    process = next(results)
    assert isinstance(process, int)
    results.close()  # type: ignore[attr-defined]
    assert not running(process)


def running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_workers_end_when_their_parent_is_killed() -> None:
    parent = subprocess.Popen(
        [sys.executable, __file__],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert parent.stdout is not None
    workers: set[int] = set()
    while len(workers) < 2:
        workers.add(int(parent.stdout.readline()))
    assert all(running(worker) for worker in workers)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while any(running(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.02)
    left = [worker for worker in workers if running(worker)]
    for worker in left:
        os.kill(worker, signal.SIGKILL)
    assert left == []


if __name__ == "__main__":
    main()
