"""A process that has imported libraries, and forks where `python -m MODULE` is to be run.

Run as a program, with the name of its socket. A request is the arguments, directory and
environment of a process, in JSON, with its descriptors 0 to 2; the answer is its exit code.
Modules of the repository are not imported here but by the fork, from where it is to run.
"""

import array
import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import threading
from typing import Any, NoReturn, TextIO

# What imports most of what stages, commands and DVC import, of other projects.
LIBRARIES = [
    *("numpy", "polars", "torch", "torch._dynamo", "torch.optim", "torch.utils.data"),
    *("sklearn.metrics", "sklearn.linear_model", "sklearn.ensemble", "scipy.stats"),
    *("matplotlib.figure", "matplotlib.backends.backend_agg", "jinja2", "av", "cv2"),
    *("ruamel.yaml", "yaml", "psutil", "dvc.cli.parser", "dvc.repo.reproduce"),
    *("dvc.repo.experiments.queue.celery", "dvc.repo.experiments.queue.workspace"),
    "dvc.repo.experiments.executor.local",
]

OF_PYTHON = {1: "strict", 2: "backslashreplace"}


def main() -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        listener.bind(f"\0{sys.argv[1]}")
    except OSError:
        return  # another is there already
    listener.listen(64)
    sys.stdout, sys.stderr = stream_into_a_pipe(1), stream_into_a_pipe(2)
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # no fork writes to these pages only to count
    request, descriptors = serve(listener)
    become(request, descriptors)
    end(run(request["module"]))


def stream_into_a_pipe(number: int) -> TextIO:
    """Return what a process with a pipe as this descriptor begins with, and DVC keeps."""
    os.dup2(os.pipe()[1], number)
    return open(number, "w", buffering=1 if number == 2 else -1, errors=OF_PYTHON[number])


def serve(listener: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Answer requests until all connections are closed; return one of them, in each fork."""
    clients: dict[socket.socket, int] = {}  # and the process that runs for each, or 0
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is listener:
                    client = listener.accept()[0]
                    clients[client] = 0
                    selector.register(client, selectors.EVENT_READ)
                elif isinstance(key.fileobj, int):  # of a process that has ended
                    client, process = key.data
                    selector.unregister(key.fileobj)
                    os.close(key.fileobj)
                    _, status = os.waitpid(process, 0)
                    if client in clients:
                        clients[client] = 0
                        answer(client, os.waitstatus_to_exitcode(status))
                else:
                    client = key.fileobj  # type: ignore[assignment]
                    content, descriptors, _, _ = socket.recv_fds(client, 1 << 20, 3)
                    if not content:
                        selector.unregister(client)
                        client.close()
                        if process := clients.pop(client):
                            os.kill(process, signal.SIGTERM)
                        if not clients:
                            sys.exit()
                        continue
                    process = os.fork()
                    if process == 0:
                        for each in (listener, *clients):
                            each.close()
                        return json.loads(content), descriptors
                    clients[client] = process
                    selector.register(
                        os.pidfd_open(process), selectors.EVENT_READ, (client, process)
                    )
                    for descriptor in descriptors:
                        os.close(descriptor)


def answer(client: socket.socket, code: int) -> None:
    with contextlib.suppress(OSError):  # who asked has gone
        client.sendall(array.array("i", [code]).tobytes())


def become(request: dict[str, Any], descriptors: list[int]) -> None:
    """Take the place of a process that has just been started."""
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    paths = request["env"].get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:1] = [request["cwd"], *filter(None, paths)]
    sys.argv = ["-m", *request["arguments"]]
    sys.modules["numpy"].random.seed()  # which forks would have in common


def run(module: str) -> int:
    """Run a module as `python -m` does; return the exit code."""
    try:
        runpy._run_module_as_main(module)  # type: ignore[attr-defined]
    except SystemExit as stopped:
        if stopped.code is None or isinstance(stopped.code, int):
            return stopped.code or 0
        print(stopped.code, file=sys.stderr)
        return 1
    except BaseException:  # noqa: BLE001, printed as at the end of any process
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def end(code: int) -> NoReturn:
    """End without taking the libraries apart, object by object."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
