"""Worker processes on the machines of a Dask cluster, which share a file system with the clone.

Dask schedules the tasks, and gives those of a worker that is lost to another.
"""

import importlib
import json
import time
import uuid
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from contextlib import suppress
from types import ModuleType
from typing import Any

from mlops.errors import PipelineError
from mlops.files.atomic import write_text
from mlops.files.places import runs_root
from mlops.processes.progress import counted
from mlops.workers import supervisor
from mlops.workers.requirements import own_requirements
from mlops.workers.supervisor import Outcome
from mlops.workers.worker import CODE, Call, Limits, pack, process_options

CONNECT_SEC = 10.0
LOOK_EVERY_SEC = 1.0
LOG_EVERY_SEC = 30.0

# Tasks at the scheduler, or twice as many as there are threads: their descriptions hold the times
# of all frames, which for hours of video are megabytes.
MIN_SUBMITTED = 64


class DaskProcesses:
    """A cluster, connected to when the first task comes, and left by `close`.

    `address` is the scheduler's, or the path of the file that `dask scheduler --scheduler-file`
    wrote.
    """

    def __init__(self, address: str, limits: Limits | None) -> None:
        self._address = address
        self._limits = limits
        self._name = f"video-pipeline-{uuid.uuid4().hex}"
        self._shared_file = runs_root().absolute() / ".dask" / self._name
        self._client: Any = None
        self._threads = -1  # not known yet
        self._next_look_sec = 0.0
        self._logged_sec = time.monotonic()

    def outcomes(self, calls: Sequence[Call]) -> Generator[Outcome, None, None]:
        """Yield the outcome of each function with its task, in their order."""
        if not calls:
            return
        if self._client is None:
            self._connect()
        executor = self._client.get_executor(pure=False)
        waiting = deque(enumerate(calls))
        submitted: dict[Future[Outcome], int] = {}
        ended: dict[int, Outcome] = {}
        try:
            for number in range(len(calls)):
                while number not in ended:
                    while waiting and len(submitted) < max(MIN_SUBMITTED, 2 * self._threads):
                        index, call = waiting.popleft()
                        submitted[executor.submit(self._run, pack(call))] = index
                    done, _ = wait(submitted, LOOK_EVERY_SEC, FIRST_COMPLETED)
                    # Dask would do the task of a future that is still held again if the worker
                    # that has the result were lost.
                    ended |= {submitted.pop(future): self._outcome(future) for future in done}
                    self._look()
                yield ended.pop(number)
        finally:
            # After a fault, or when the taker stops: what is still at work answers nobody.
            if self._client.status == "running":
                executor.shutdown(wait=False)

    def close(self) -> None:
        """Have the workers end their processes, and leave the cluster."""
        if self._client is None:
            return
        self._shared_file.unlink(missing_ok=True)
        # Where the scheduler is gone, nobody is left to be told; a ValueError says that it knows of
        # no plugin, as after a connection that its workers were refused for.
        with suppress(OSError, TimeoutError, CancelledError, ValueError):
            if self._client.status == "running":
                self._client.unregister_worker_plugin(self._name)
        self._client.close(timeout=CONNECT_SEC)

    def _connect(self) -> None:
        # Before Dask's own libraries count as what the tasks have imported.
        requirements = own_requirements(CODE, self._shared_file)
        distributed = _import_distributed()
        from mlops.workers import dask_plugin

        self._address = _scheduler_address(self._address)
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
        self._check_interpreters()
        write_text(self._shared_file, "")
        options = process_options(self._limits, requirements)
        for module in (dask_plugin, supervisor):
            importlib.import_module("cloudpickle").register_pickle_by_value(module)
        run, name = dask_plugin.run_in_process, self._name
        # A lambda is sent by its code; a function of a module would be looked up by the scheduler.
        self._run = lambda task: run(name, task)
        self._client.register_plugin(dask_plugin.ProcessesPlugin(self._name, options))
        self._look()

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

    def _outcome(self, future: "Future[Outcome]") -> Outcome:
        try:
            return future.result()
        except CancelledError:
            raise self._gone() from None
        except Exception as error:  # noqa: BLE001 - what Dask itself says, KilledWorker among it
            raise PipelineError(
                f"{self._address}: expected the cluster to do every task, got "
                f"{type(error).__name__}: {_in_one_line(error)}; see the log of its workers, and "
                "run the same command again, which keeps what is finished"
            ) from None

    def _look(self) -> None:
        """Log how many threads there are; raise if the scheduler is gone."""
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
            self._logged_sec = now_sec
        elif now_sec - self._logged_sec >= LOG_EVERY_SEC:
            self._logged_sec = now_sec
            print(f"dask: no worker at {self._address} for {LOG_EVERY_SEC:g} s; waiting for one")

    def _gone(self) -> PipelineError:
        return PipelineError(
            f"{self._address}: expected the Dask scheduler to stay, it is gone; start it and its "
            "workers, and run the same command again, which keeps what is finished"
        )


def _import_distributed() -> ModuleType:
    try:
        return importlib.import_module("distributed")
    except ImportError as error:
        pins = (CODE / "requirements.lock").read_text().splitlines()
        pin = next(line for line in pins if line.startswith("distributed=="))
        raise PipelineError(
            f"runtime.executor: expected the package distributed for dask, got: {error}; run "
            f"pip install {pin}, or write runtime.executor: processes"
        ) from None


def _scheduler_address(given: str) -> str:
    """Return the address itself, or the one in a scheduler file below DVC's root."""
    if not given.endswith(".json"):
        return given
    try:
        return str(json.loads((runs_root().parent / given).read_bytes())["address"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PipelineError(
            f"runtime.dask_address: expected {given} to be a scheduler file, got a fault "
            f"({_in_one_line(error)}); start dask scheduler --scheduler-file {given}"
        ) from None


def _in_one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
