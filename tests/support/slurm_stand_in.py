"""sbatch, scancel and scontrol of one machine, as far as the scripts of examples/slurm need them.

    python slurm_stand_in.py DIRECTORY COMMAND ARGUMENT...

A job is a directory ARRAY_TASK. As with SLURM, the number of the last task is that of the array:
`scontrol requeue` with it puts all tasks back, also those that have ended.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(sys.argv[1])


def sbatch(*arguments: str) -> None:
    """Submit a script, the last argument; the others are options of the form --name=value."""
    script = Path(arguments[-1])
    in_script = [line for line in script.read_text().splitlines() if line.startswith("#SBATCH ")]
    # Those of the command line come last and win.
    pairs = re.findall(r"--([\w-]+)=(\S+)", " ".join([*in_script, *arguments[:-1]]))
    options = dict(pairs)
    array = 1 + sum(1 for _ in ROOT.glob("*_*"))
    tasks = options["array"].partition("%")[0].split(",")
    for number, task in enumerate(reversed(tasks), start=array):
        job = ROOT / f"{array}_{task}"
        job.mkdir()
        shutil.copy2(script, job / "script")
        output = options["output"].replace("%A", str(array)).replace("%a", task)
        note(job, number=number, output=output, starts=0)
        begin(job)
    print(f"Submitted batch job {array}")


def begin(job: Path) -> None:
    note(job, is_wanted=True)
    subprocess.Popen(
        [sys.executable, __file__, str(ROOT), "work", job.name],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def work(name: str) -> None:
    """Run a task until it is not put back any more."""
    job = ROOT / name
    array, task = name.split("_")
    while (known := notes(job))["is_wanted"]:
        variables = {
            "SLURM_JOB_ID": str(known["number"]),
            "SLURM_ARRAY_JOB_ID": array,
            "SLURM_ARRAY_TASK_ID": task,
            "SLURM_SUBMIT_DIR": str(Path.cwd()),
        }
        if known["starts"]:
            variables["SLURM_RESTART_COUNT"] = str(known["starts"])
        with Path(known["output"]).open("ab") as log:
            script = subprocess.Popen(
                ["bash", str(job / "script")],
                env=os.environ | variables,
                start_new_session=True,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        note(job, is_wanted=False, starts=known["starts"] + 1, session=script.pid)
        script.wait()
        note(job, session=None)


def scancel(*arguments: str) -> None:
    job = ROOT / arguments[-1]
    if "--batch" in arguments:
        (name,) = (word.removeprefix("--signal=") for word in arguments if "--signal=" in word)
        os.kill(notes(job)["session"], signal.Signals[f"SIG{name}"])
    else:
        end(notes(job)["session"])


def scontrol(action: str, number: str) -> None:
    assert action == "requeue", action
    sessions = []
    for job in ROOT.glob(number if "_" in number else f"{number}_*"):
        session = notes(job)["session"]
        if session is None:
            begin(job)
        else:
            note(job, is_wanted=True)
            sessions.append(session)
    # Its own last, which ends this process, too.
    for session in sorted(sessions, key=lambda session: session == os.getsid(0)):
        end(session)


def end(session: int) -> None:
    """Send SIGTERM to all processes of a batch script."""
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(ProcessLookupError, PermissionError):
            if os.getsid(int(path.name)) == session:
                os.kill(int(path.name), signal.SIGTERM)


def notes(job: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((job / "notes").read_text())
    return document


def note(job: Path, **values: Any) -> None:
    known = notes(job) if (job / "notes").exists() else {}
    half = job / f"notes.{os.getpid()}"
    half.write_text(json.dumps(known | values))
    half.rename(job / "notes")


if __name__ == "__main__":
    {"sbatch": sbatch, "scancel": scancel, "scontrol": scontrol, "work": work}[sys.argv[2]](
        *sys.argv[3:]
    )
