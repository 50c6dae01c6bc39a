"""A task that hangs, eats memory or crashes costs its own result, and no other."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlops.errors import PipelineError
from mlops.workers.pool import Executor, Fault, WorkerPool
from mlops.workers.worker import Limits

# Spawned workers import this module to find the functions.


def divide(task: int) -> float:
    return 1 / task


def touch(path: Path) -> str:
    path.touch()
    return path.name


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
        np.zeros(10**9, np.uint8)  # which the system would give, for nothing is written there
    if task == "fill and hang":
        filled = os.urandom(1000) * 150_000
        while filled:
            time.sleep(1)
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
    """End the worker at its next task once it has seen task 1."""
    if os.environ.get("POISONED"):
        os._exit(1)
    if task == 1:
        os.environ["POISONED"] = "1"
    return task


def process_of(task: int) -> int:
    return os.getpid()


class DiesWhenSent:
    """An answer in the middle of which its process is killed."""

    def __reduce__(self) -> tuple[object, tuple[()]]:
        os.kill(os.getpid(), signal.SIGKILL)
        return int, ()


def die_while_answering(task: int) -> object:
    return DiesWhenSent() if task == 1 else task


class Unimportable:
    """Cannot be unpickled in a worker."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (sys.exit, ("cannot start",))

    def __call__(self, task: int) -> int:
        return task


GUARD = Limits(time_sec=1.0, memory_mb=100)


def processes(workers: int) -> Executor:
    return Executor(executor="processes", workers=workers)


def guarded(function: Callable[[Any], Any], tasks: Sequence[Any], *, workers: int) -> Iterator[Any]:
    with WorkerPool(processes(workers), GUARD) as pool:
        yield from pool.map(function, tasks)


TIMEOUT = Fault(kind="timeout", reason="took more than 1 s")
OUT_OF_MEMORY = Fault(kind="out_of_memory", reason="took more than 100 MB of memory")


def crash(how: str) -> Fault:
    return Fault(kind="crashed", reason=f"ended the process that read it ({how})")


@pytest.mark.parametrize(
    ("task", "fault"),
    [
        ("hang", TIMEOUT),
        ("hang deaf", TIMEOUT),
        ("eat", OUT_OF_MEMORY),
        ("ask for too much", OUT_OF_MEMORY),
        ("fill and hang", OUT_OF_MEMORY),
        ("peak", OUT_OF_MEMORY),
        ("die", crash("signal SIGKILL")),
        ("segfault", crash("signal SIGSEGV")),
        ("exit", crash("exit code 3")),
    ],
)
def test_a_task_that_misbehaves_costs_its_own_result_only(task: str, fault: Fault) -> None:
    tasks = ["a", task, "b", "c"]
    assert list(guarded(misbehave, tasks, workers=1)) == ["a", fault, "b", "c"]


def test_the_number_of_guarded_workers_does_not_change_the_results() -> None:
    tasks = ["a", "hang", "b", "die", "eat", "c", "hang", "d"]
    one, three = (list(guarded(misbehave, tasks, workers=n)) for n in (1, 3))
    assert one == three
    assert one == [
        "a", TIMEOUT, "b", crash("signal SIGKILL"), OUT_OF_MEMORY, "c", TIMEOUT, "d",
    ]  # fmt: skip


def test_what_an_earlier_task_broke_is_not_held_against_the_next() -> None:
    assert list(guarded(poison, [0, 1, 2, 3], workers=1)) == [0, 1, 2, 3]


def test_a_worker_killed_while_it_answers_blocks_no_other() -> None:
    results = list(guarded(die_while_answering, range(6), workers=2))
    assert results == [0, crash("signal SIGKILL"), 2, 3, 4, 5]


def test_guarded_workers_live_on() -> None:
    processes = set(guarded(process_of, range(20), workers=2))
    assert 1 <= len(processes) <= 2
    assert os.getpid() not in processes


def test_a_slow_taker_of_results_makes_no_timeouts() -> None:
    results = guarded(misbehave, ["a", "b", "c"], workers=1)
    taken = []
    for result in results:
        taken.append(result)
        time.sleep(1.2)
    assert taken == ["a", "b", "c"]


def test_no_more_tasks_are_begun_than_may_be_ahead_of_the_taker(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(12)]
    executor = Executor(executor="processes", workers=2)
    with WorkerPool(executor, Limits(time_sec=20, memory_mb=100), max_ahead=3) as pool:
        results = pool.map(touch, paths)
        taken = [next(results)]
        time.sleep(0.3)
        begun = len(list(tmp_path.iterdir()))
        taken += results

    assert 1 <= begun <= 3
    assert taken == [path.name for path in paths]


def test_without_guarded_tasks_there_are_no_results() -> None:
    assert list(guarded(misbehave, [], workers=2)) == []


def test_an_exception_of_a_guarded_task_costs_its_own_result_and_is_told_with_its_place() -> None:
    one, fault, half = guarded(divide, [1, 0, 2], workers=1)
    assert (one, half) == (1.0, 0.5)
    assert fault.kind == "internal_error"
    place = f"line {divide.__code__.co_firstlineno + 1} of tests/mlops/test_guarded_workers.py"
    assert fault.reason == f"raised ZeroDivisionError: division by zero ({place})"


def test_a_guarded_worker_that_cannot_start_fails_the_work() -> None:
    with pytest.raises(PipelineError, match=r"ended before it could work \(exit code 1\)"):
        list(guarded(Unimportable(), [1], workers=1))


def test_no_guarded_worker_is_left_when_the_taker_stops() -> None:
    results = guarded(process_of, range(20), workers=2)
    process = next(results)
    assert isinstance(process, int)
    results.close()  # type: ignore[attr-defined]
    assert not Path(f"/proc/{process}").exists()


def test_workers_learn_one_function_after_another() -> None:
    with WorkerPool(processes(2), GUARD) as pool:
        first = set(pool.map(process_of, range(6)))
        assert list(pool.map(divide, [1, 2, 4])) == [1.0, 0.5, 0.25]
        assert len(first | set(pool.map(process_of, range(6)))) <= 2


def test_a_worker_that_died_between_two_functions_is_replaced() -> None:
    with WorkerPool(processes(1), GUARD) as pool:
        (process,) = pool.map(process_of, [0])
        assert isinstance(process, int)
        os.kill(process, signal.SIGKILL)
        (other,) = pool.map(process_of, [0])
        assert other != process


def test_an_answer_that_nobody_took_is_not_the_next_ones() -> None:
    with WorkerPool(processes(2), GUARD) as pool:
        results = pool.map(misbehave, ["a", "b", "c", "d"])
        assert next(results) == "a"
        results.close()  # type: ignore[attr-defined]
        assert list(pool.map(misbehave, ["e", "f"])) == ["e", "f"]
