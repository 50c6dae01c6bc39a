"""The part of a pool that runs in a Dask worker; it travels there as `supervisor` does."""

from distributed import Worker, get_worker
from distributed.diagnostics.plugin import WorkerPlugin

from mlops.workers.supervisor import Outcome, ProcessOptions, WorkerProcesses


class ProcessesPlugin(WorkerPlugin):  # type: ignore[misc]
    """The processes of one stage on one Dask worker, as many as it has threads at work."""

    def __init__(self, name: str, options: ProcessOptions) -> None:
        self.name = name
        self._options = options

    def setup(self, worker: Worker) -> None:
        self._tasks = worker.state.tasks
        self.processes = WorkerProcesses(self._options)

    def teardown(self, worker: Worker) -> None:
        self.processes.close()

    def is_wanted(self, key: str) -> bool:
        """Return whether the stage waits for a task.

        After its end, what runs on would write into the outs of the next.
        """
        return key in self._tasks and self._tasks[key].state != "cancelled"


def run_in_process(name: str, task: bytes) -> Outcome:
    """Have a process of the plugin with this name do the task; in a thread of the Dask worker."""
    worker = get_worker()
    plugin = worker.plugins[name]
    key = worker.get_current_task()
    outcome: Outcome = plugin.processes.run(task, lambda: plugin.is_wanted(key))
    return outcome
