"""Tasks on the workers of a Dask cluster, with results in the order of the tasks.

Dask schedules them, and gives those of a worker that is lost to another. Each is done in a process
that the worker starts in the clone, which lies on a file system that all machines share.
"""

import importlib
import json
import os
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from mlops.errors import PipelineError
from mlops.files.atomic import write_text
from mlops.files.places import runs_root
from mlops.processes.progress import counted
from mlops.workers.dask_tasks import TaskResult, own_requirements, pack, unpack

if TYPE_CHECKING:
    from mlops.workers.dask_crew import Outcome

Task = TypeVar("Task")
Result = TypeVar("Result")

CODE = Path(__file__).resolve().parents[2]

CONNECT_SEC = 10.0
LOOK_EVERY_SEC = 1.0
SAY_EVERY_SEC = 30.0

# Tasks at the scheduler, or twice as many as there are threads: their descriptions hold the times
# of all frames, which for hours of video are megabytes.
IN_HAND = 64
# As often a task's process may end before the task is told as the cause.
MAX_TRIES = 3

# What a worker has Python run in the clone.
SERVE = "import sys; from mlops.workers.dask_tasks import serve; serve(int(sys.argv[1]))"


class DaskWorkers:
    """A cluster, connected to when the first task comes, and left by `close`.

    `address` is the scheduler's, or the path of the file that `dask scheduler --scheduler-file`
    wrote.
    """

    def __init__(self, address: str) -> None:
        self._given = address
        self._session: _Session | None = None

    def __enter__(self) -> "DaskWorkers":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def map(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """Yield `function(task)` for each task; `function` is importable on the workers, tasks and
        results can be pickled.

        An exception of a task is raised here and ends the work.
        """
        if not tasks:
            return
        if self._session is None:
            self._session = _Session(self._given)
        yield from self._session.results([(function, task) for task in tasks])


class _Session:
    """A connection to a scheduler, and this stage's crew on each of its workers."""

    def __init__(self, given: str) -> None:
        self._shared_file = runs_root() / ".dask" / uuid.uuid4().hex
        # Before Dask's own libraries count as what the tasks have imported.
        demands = own_requirements(CODE, self._shared_file.absolute())
        distributed = _distributed()
        from mlops.workers import dask_crew

        self._address = _address(given)
        self._name = f"video-pipeline-{self._shared_file.name}"
        self._work = dask_crew.work_of(self._name)
        self._threads = -1  # not known yet
        self._next_look_sec = 0.0
        self._said_sec = time.monotonic()
        try:
            self._client = distributed.Client(
                self._address, timeout=CONNECT_SEC, set_as_default=False
            )
        except (OSError, ValueError, ImportError) as error:
            raise PipelineError(
                f"runtime.dask_address: expected a Dask scheduler at {self._address}, got none in "
                f"{CONNECT_SEC:g} s ({_in_one_line(error)}); start one there, or write "
                "runtime.executor: processes"
            ) from None
        try:
            self._check_interpreters()
            write_text(self._shared_file, "")
            crew = dask_crew.WorkerPool(
                name=self._name,
                command=SERVE,
                directory=str(Path.cwd()),
                environment={"PYTHONPATH": str(CODE), "DVC_ROOT": os.environ.get("DVC_ROOT")},
                demands=pack(demands),
            )
            with _sent_by_value(dask_crew):
                self._client.register_plugin(crew)
            self._look()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._shared_file.unlink(missing_ok=True)
        # Where the scheduler is gone, nobody is left to be told; a ValueError says that it knows of
        # no crew, as of a session that its workers were refused for.
        with suppress(OSError, TimeoutError, CancelledError, ValueError):
            if self._client.status == "running":
                self._client.unregister_worker_plugin(self._name)
        self._client.close(timeout=CONNECT_SEC)

    def results(self, tasks: Sequence[tuple[Callable[[Any], Any], Any]]) -> Iterator[Any]:
        """What each task returns, in the order of the tasks."""
        executor = self._client.get_executor(pure=False)
        waiting = deque(range(len(tasks)))
        given: dict[Future[Outcome], int] = {}
        answers: dict[int, TaskResult] = {}
        losses: Counter[int] = Counter()
        try:
            for number in range(len(tasks)):
                while number not in answers:
                    while waiting and len(given) < max(IN_HAND, 2 * self._threads):
                        task = waiting.popleft()
                        given[executor.submit(self._work, pack(tasks[task]))] = task
                    for task, answer in self._ended(given):
                        if isinstance(answer, TaskResult):
                            answers[task] = answer
                            continue
                        losses[task] += 1
                        if losses[task] == MAX_TRIES:
                            raise PipelineError(_lost(answer))
                        waiting.appendleft(task)
                    self._look()
                answer = answers.pop(number)
                if answer.error is not None:
                    raise answer.error
                yield answer.value
        finally:
            # After a fault, or when the taker stops: what is still at work answers nobody.
            if self._client.status == "running":
                executor.shutdown(wait=False)

    def _ended(self, given: "dict[Future[Outcome], int]") -> list[tuple[int, TaskResult | str]]:
        """Remove what has ended by now, and wait a little for something to do so.

        A future is forgotten with its result: Dask would do the task of one that is still held
        again if the worker that has the result were lost.
        """
        done, _ = wait(given, LOOK_EVERY_SEC, FIRST_COMPLETED)
        return [(given.pop(future), self._answer(future)) for future in done]

    def _answer(self, future: "Future[Outcome]") -> TaskResult | str:
        """The answer, or how the process that should give it ended."""
        try:
            outcome = future.result()
        except CancelledError:
            raise self._gone() from None
        except Exception as error:  # noqa: BLE001 - what Dask itself says, KilledWorker among it
            raise PipelineError(
                f"{self._address}: expected the cluster to do every task, got "
                f"{type(error).__name__}: {_in_one_line(error)}; see the log of its workers, and "
                "run the same command again, which keeps what is finished"
            ) from None
        if outcome[0] == "unfit":
            raise PipelineError(*outcome[1])
        if outcome[0] == "lost":
            return outcome[1]
        answer: TaskResult = unpack(outcome[1])
        return answer

    def _look(self) -> None:
        """See how many threads there are; a `PipelineError` if the scheduler is gone."""
        now_sec = time.monotonic()
        if now_sec < self._next_look_sec:
            return
        self._next_look_sec = now_sec + LOOK_EVERY_SEC
        if self._client.status != "running":
            raise self._gone()
        try:
            threads = sum(self._client.nthreads().values())
        except (OSError, TimeoutError, CancelledError):
            raise self._gone() from None
        if threads != self._threads:
            print(f"dask: {counted(threads, 'thread')} at {self._address}")
        self._threads = threads
        if threads:
            self._said_sec = now_sec
        elif now_sec - self._said_sec >= SAY_EVERY_SEC:
            self._said_sec = now_sec
            print(f"dask: no worker at {self._address} for {SAY_EVERY_SEC:g} s; waiting for one")

    def _gone(self) -> PipelineError:
        return PipelineError(
            f"{self._address}: expected the Dask scheduler to stay, it is gone; start it and its "
            "workers, and run the same command again, which keeps what is finished"
        )

    def _check_interpreters(self) -> None:
        """Refuse workers that could not even read what is sent to them."""
        versions = self._client.get_versions()
        ours = versions["client"]["packages"]
        faults = [
            f"Dask worker {address}: expected {name} {ours[name]}, got {theirs['packages'][name]}; "
            "start the Dask workers with the virtual environment of the stage"
            for address, theirs in versions["workers"].items()
            for name in ("python", "cloudpickle", "distributed")
            if theirs["packages"][name] != ours[name]
        ]
        if faults:
            raise PipelineError(*faults)


def _distributed() -> ModuleType:
    try:
        return importlib.import_module("distributed")
    except ImportError as error:
        pins = (CODE / "requirements.lock").read_text().splitlines()
        pin = next(line for line in pins if line.startswith("distributed=="))
        raise PipelineError(
            f"runtime.executor: expected the package distributed for dask, got: {error}; run "
            f"pip install {pin}, or write runtime.executor: processes"
        ) from None


@contextmanager
def _sent_by_value(module: ModuleType) -> Iterator[None]:
    cloudpickle = importlib.import_module("cloudpickle")
    cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def _address(given: str) -> str:
    """The address itself, or the one in a scheduler file; its path counts from DVC's root."""
    if not given.endswith(".json"):
        return given
    try:
        return str(json.loads((runs_root().parent / given).read_text())["address"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PipelineError(
            f"runtime.dask_address: expected {given} to be a scheduler file, got a fault "
            f"({_in_one_line(error)}); start dask scheduler --scheduler-file {given}"
        ) from None


def _lost(how: str) -> str:
    return (
        f"expected a task to end, got the end of its process {MAX_TRIES} times ({how}); see the "
        "log of that Dask worker, or find out with runtime.executor: processes"
    )


def _in_one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
