"""Machine, versions and commit of a process, recorded to compare runs later.

Nothing of it decides whether a run goes on: that is the fingerprint's. All of it is read from
small files or asked of git, and nothing is hashed or imported, for it stands before the first step.
"""

import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from mlops.recorded.dvc_lock import workspace_md5s

# Of a batch system or of DVC: which job or experiment this is. Never the whole environment, which
# may hold secrets.
JOB_VARIABLES = (
    "SLURM_JOB_ID",
    "SLURM_ARRAY_JOB_ID",
    "SLURM_ARRAY_TASK_ID",
    "SLURM_RESTART_COUNT",
    "SLURM_JOB_PARTITION",
    "PBS_JOBID",
    "LSB_JOBID",
    "DVC_EXP_NAME",
    "CUDA_VISIBLE_DEVICES",
)
# On a network file system git may take long to look at every file.
GIT_PATIENCE_SEC = 2.0
NVIDIA = Path("/proc/driver/nvidia")


def environment(libraries: Iterable[str], inputs: Iterable[Path | str] = ()) -> dict[str, Any]:
    """Return what is known of this process and of the repository it runs in; plain types only.

    `libraries` are names of distributions, `inputs` the paths that the stage reads, as dvc.yaml
    spells them. What is not there is None: a library that is not installed, a GPU, a repository,
    an md5 that dvc.lock does not name. Keys:

    - `python`, `platform`, `host`; `cpu`: `model`, `cores` that this process may use;
      `memory_bytes` of the machine
    - `gpu`: `names`, `driver`, and `cuda`, the version that torch was built for, if torch has been
      imported
    - `libraries`: their versions
    - `git`: `commit`; `changed`, the tracked files that differ from it, and `dirty`, whether there
      are any: both None if git took longer than 2 s to tell
    - `job`: the variables of `JOB_VARIABLES` that are set
    - `inputs`: the md5 of each by dvc.lock, where nothing is hashed; that of a directory ends
      with `.dir`
    """
    md5s = workspace_md5s()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "cpu": {
            "model": _field(Path("/proc/cpuinfo"), "model name"),
            "cores": len(os.sched_getaffinity(0)),
        },
        "memory_bytes": psutil.virtual_memory().total,
        "gpu": gpu(),
        "libraries": {name: _version(name) for name in sorted(libraries)},
        "git": _git_state(),
        "job": {name: os.environ[name] for name in JOB_VARIABLES if name in os.environ},
        "inputs": {name: md5s.get(name) for name in map(str, inputs)},
    }


def _field(path: Path, name: str) -> str | None:
    """Return the value of the first line "name: value" of a file below /proc."""
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            for line in stream:  # of many cores each has a part; the first is enough
                key, _, value = line.partition(":")
                if key.strip() == name:
                    return value.strip()
    except OSError:
        pass
    return None


def gpu(driver_files: Path = NVIDIA) -> dict[str, Any] | None:
    """Return `names`, `driver` and `cuda` as above, from what the NVIDIA driver shows."""
    # Quicker than nvidia-smi, and without starting CUDA as torch would.
    names = [_field(path, "Model") for path in sorted(driver_files.glob("gpus/*/information"))]
    # An import takes seconds, and who has not imported it computes nothing with it.
    torch = sys.modules.get("torch")
    if not names and torch is not None and torch.cuda.is_initialized():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if not names:
        return None
    said = _field(driver_files / "version", "NVRM version") or ""
    driver = re.search(r"\d+\.\d+(\.\d+)?", said)
    return {
        "names": names,
        "driver": driver[0] if driver else None,
        "cuda": torch.version.cuda if torch is not None else None,
    }


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _git_state() -> dict[str, Any] | None:
    commit = _git("rev-parse", "--verify", "--quiet", "HEAD")
    if commit is None:
        return None
    changed = _git("status", "--porcelain", "-z", "--untracked-files=no", "--no-renames")
    # "XY PATH", each ended by a NUL.
    names = None if changed is None else [item[3:] for item in changed.split("\0") if item]
    dirty = None if names is None else bool(names)
    return {"commit": commit.strip(), "dirty": dirty, "changed": names}


def _git(*arguments: str) -> str | None:
    try:
        answer = subprocess.run(
            # Without the lock that `status` takes to note what it saw: DVC calls git as well.
            ["git", "--no-optional-locks", *arguments],
            capture_output=True,
            timeout=GIT_PATIENCE_SEC,
            check=False,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.decode(errors="replace") if answer.returncode == 0 else None
