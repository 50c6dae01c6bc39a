"""Processes that begin with torch and other libraries imported, for commands that run to their end.

Importing torch and what its optimizers need takes three seconds of CPU, and DVC starts a process
for every cell. So `python -m MODULE` is run by a fork of one process that has imported the
libraries, and so are the stages that DVC starts. A fork imports the repository's modules by itself,
from the directory it runs in. Tests that kill DVC, and the finished clone, start real programs.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from atexit import register
from functools import cache
from pathlib import Path

SERVER = Path(__file__).with_name("warm_server.py")
LIMIT_SEC = 60.0

# Read when Python or a library starts: a process with other values is started as any other.
READ_AT_START = ("PYTHON", "LC_", "LANG", "LD_PRELOAD", "OMP_", "MKL_", "POLARS_")
# Before any test may have set another value.
AT_START = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

# Named `python` in a directory of its own, which DVC finds first.
PROGRAM = """#!{python} -IS
import array, json, os, socket, sys
if sys.argv[1:2] != ["-m"] or sys.argv[2].split(".")[0] not in ("stages", "commands", "dvc"):
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
request = dict(module=sys.argv[2], arguments=sys.argv[3:], cwd=os.getcwd(), env=dict(os.environ))
server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
server.connect({address!r})
socket.send_fds(server, [json.dumps(request).encode()], [0, 1, 2])
code = array.array("i", server.recv(4))[0]
if code < 0:
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


def warm(command: list[str], env: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """Return what runs `python -m MODULE …` by a fork, and its variables; the same if none can."""
    if command[:2] != [sys.executable, "-m"] or _read_at_start(env) != _read_at_start(AT_START):
        return command, env
    program = _program()
    if command[2] == "dvc":
        env = env | {"PATH": f"{program.parent}{os.pathsep}{env['PATH']}"}
    return [str(program), *command[1:]], env


def _read_at_start(env: dict[str, str]) -> dict[str, str]:
    names = [name for name in env if name.startswith(READ_AT_START) and name != "PYTHONPATH"]
    return {name: env[name] for name in names}


@cache
def _program() -> Path:
    """Return a program that asks for a fork, once there is who forks: one for all workers."""
    name = f"warm-{os.environ.get('PYTEST_XDIST_TESTRUNUID', os.getpid())}"
    # If another worker has started one, it ends at once.
    server = subprocess.Popen([sys.executable, str(SERVER), name], env=AT_START)
    address = f"\0{name}"  # no file, so none is left behind
    # Open as long as this process: after the last of them the server ends.
    connection = _connected(address)
    directory = Path(tempfile.mkdtemp(prefix="warm-"))

    @register
    def end() -> None:
        connection.close()
        shutil.rmtree(directory)
        server.wait()

    program = directory / "python"
    program.write_text(PROGRAM.format(python=sys.executable, address=address))
    program.chmod(0o755)
    return program


def _connected(address: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    deadline = time.monotonic() + LIMIT_SEC
    while True:
        try:
            connection.connect(address)
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        else:
            return connection
