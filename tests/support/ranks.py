"""Several ranks that communicate as those that torch.distributed.run starts."""

import io
import multiprocessing
import os
import queue
import socket
from collections.abc import Callable
from typing import Any

import torch

from mlops.processes.group import process_group

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    ["mlops.processes.group", "video.learning.learner", "video.models.small3d"]
)


def together(task: Callable[..., Any], *arguments: Any, size: int = 2) -> list[Any]:
    """Run `task(group, *arguments)` on every rank; return the results, or the text of an error."""
    answers = _context.Queue()
    port = _free_port()
    processes = [
        _context.Process(target=_work, args=(task, arguments, rank, size, port, answers))
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    results: dict[int, Any] = {}
    try:
        while len(results) < size:
            rank, result = answers.get(timeout=60)
            # As bytes: torch would else share the memory of a process that has ended.
            results[rank] = torch.load(io.BytesIO(result), weights_only=False)
    except queue.Empty:
        raise AssertionError(f"only the processes {sorted(results)} answered") from None
    finally:
        for process in processes:
            process.join(1)
            process.kill()
    return [results[rank] for rank in range(size)]


def _work(
    task: Callable[..., Any], arguments: Any, rank: int, size: int, port: int, answers: Any
) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "TORCHELASTIC_RUN_ID": "test",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    with process_group("cpu") as group:
        try:
            result = task(group, *arguments)
        except Exception as error:  # noqa: BLE001 - it is what the test asks for
            result = str(error)
        buffer = io.BytesIO()
        torch.save(result, buffer)
        answers.put((rank, buffer.getvalue()))
        answers.close()
        answers.join_thread()
        os._exit(0)  # at once, as one that was killed


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
