"""SLURM to test the batch scripts with: the real one, or a stand-in.

The real one is a slurmctld and two slurmd of Debian's packages, started on ports of their own and
ended again. The other is `tests/support/slurm_stand_in.py` under the names of SLURM's commands; it
sets the same variables and sends the same signals, and shows nothing else.
"""

import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from commands.prove.processes import descendants
from tests.support.clone import environment

DAEMONS = ("slurmctld", "slurmd")

# Two nodes, both this machine. Credentials that expire soon, since a job that is put back waits
# for so long.
CONFIG = """
ClusterName=test
SlurmctldHost=localhost
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
AuthInfo=cred_expire=5
CredType=cred/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerParameters=bf_interval=1,sched_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/%n.pid
NodeName=n0 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2
PartitionName=main Nodes=ALL Default=YES State=UP
"""


class BatchSystem(ABC):
    """`root` is a new directory for all that it writes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()

    @abstractmethod
    def environment(self) -> Mapping[str, str]: ...

    @abstractmethod
    def stop(self) -> None:
        """End all jobs and all that was started."""

    def run(self, *command: str, cwd: Path) -> tuple[int, str]:
        result = subprocess.run(
            command,
            cwd=cwd,
            env=self.environment(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        return result.returncode, result.stdout


class Slurm(BatchSystem):
    def __init__(self, root: Path) -> None:
        super().__init__(root)
        for name in ("state", "n0", "n1"):
            (root / name).mkdir()
        self._config = root / "slurm.conf"
        self._config.write_text(
            CONFIG.format(root=root, user=getpass.getuser(), ports=free_ports(3))
        )
        self._daemons = [
            self._start("slurmctld", "-D", "-c"),
            self._start("slurmd", "-D", "-N", "n0"),
            self._start("slurmd", "-D", "-N", "n1"),
        ]
        wait_until(lambda: self.run("sinfo", "-h", "-o", "%T %D", cwd=root)[1] == "idle 2\n")

    def _start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.root / f"{name}{arguments[-1]}.log").open("wb") as log:
            return subprocess.Popen(
                [name, "-f", str(self._config), *arguments],
                env=self.environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def environment(self) -> Mapping[str, str]:
        env = environment()
        # Debian keeps daemons where a user's PATH does not look.
        return env | {"SLURM_CONF": str(self._config), "PATH": f"{env['PATH']}:/usr/sbin"}

    def stop(self) -> None:
        self.run("scancel", "--user", getpass.getuser(), cwd=self.root)
        with suppress(AssertionError):
            wait_until(lambda: self.run("squeue", "-h", cwd=self.root)[1] == "")
        for daemon in self._daemons:
            daemon.terminate()
        for daemon in self._daemons:
            daemon.wait(60)


class StandIn(BatchSystem):
    def __init__(self, root: Path) -> None:
        super().__init__(root)
        program = Path(__file__).with_name("slurm_stand_in.py")
        (root / "bin").mkdir()
        for name in ("sbatch", "scancel", "scontrol"):
            command = root / "bin" / name
            command.write_text(f'#!/bin/sh\nexec {sys.executable} {program} {root} {name} "$@"\n')
            command.chmod(0o755)

    def environment(self) -> Mapping[str, str]:
        env = environment()
        return env | {"PATH": f"{self.root / 'bin'}:{env['PATH']}"}

    def stop(self) -> None:
        for path in self.root.glob("*_*/notes"):
            session = json.loads(path.read_text())["session"]
            for process in descendants(session) if session else []:
                process.send(signal.SIGKILL)


def missing_programs() -> list[str]:
    """Return the daemons of SLURM that are not installed."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    return [name for name in DAEMONS if shutil.which(name, path=path) is None]


def free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return ports


def wait_until(is_true: Callable[[], bool], said: Callable[[], str] = str) -> None:
    deadline = time.monotonic() + 120
    while not is_true():
        assert time.monotonic() < deadline, said()
        time.sleep(0.05)
