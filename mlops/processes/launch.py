"""Several processes for one stage: started by torch.distributed.run, told when to stop.

    python -m mlops.processes.launch OPTIONS -m MODULE …   torch.distributed.run, with fewer words

The stage's own process stays between DVC and the processes, and passes signals on: the program
that starts them knows how to end them, and so do they end when it ends.

On several machines a batch script says how that program is reached there, by two variables of the
environment, which are split into words as a shell does:

| variable | example | default |
| --- | --- | --- |
| MLOPS_LAUNCH | `srun --ntasks-per-node=1`, put before the command | nothing |
| MLOPS_TORCHRUN | `--nnodes=2 --rdzv-backend=c10d --rdzv-endpoint=node1:29500` | `--standalone` |
"""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import partial

import torch

from mlops.errors import PipelineError
from mlops.processes.parent import signal_with_parent
from mlops.processes.signals import EXIT_CODES, StopFlag

# How long processes that were told to stop may take to save: then they are killed. (Those beside
# one that failed have torch's own 30 s.)
_SAVING_SEC = 120
_LOOK_EVERY_SEC = 0.1

# torch's own default, which torch.distributed.run would turn into 1: that ends the transfers before
# the process, which could take and save a step with half a sum.
_KEPT_WHOLE = {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "3"}


def spans_machines() -> bool:
    """Return whether a batch script names other machines that run processes too."""
    return "MLOPS_TORCHRUN" in os.environ


def launch(
    module: str,
    arguments: Sequence[str],
    devices: Sequence[torch.device],
    *,
    num_threads: int,
    stop: StopFlag,
) -> None:
    """Run `python -m module arguments` in one process per device, on each machine, to the end.

    Raises `StoppedError` if they ended because `stop` was set, and `PipelineError` if one of them
    failed; what they have to say of it they have printed.
    """
    command = [
        *shlex.split(os.environ.get("MLOPS_LAUNCH", "")),
        *(sys.executable, "-m", __name__),
        *shlex.split(os.environ.get("MLOPS_TORCHRUN", "--standalone")),
        f"--nproc-per-node={len(devices)}",
        f"--signals-to-handle={','.join(number.name for number in EXIT_CODES)},SIGHUP,SIGQUIT",
        f"--shutdown-timeout={_SAVING_SEC}",
        *("-m", module, *arguments),
    ]
    process = subprocess.Popen(
        command,
        # torch.distributed.run would else set the number of threads to 1 and say so.
        env=_KEPT_WHOLE | os.environ | {"OMP_NUM_THREADS": str(num_threads)} | _visible(devices),
        # Ctrl-C reaches a whole group, and would come twice.
        start_new_session=True,
        preexec_fn=partial(signal_with_parent, signal.SIGTERM),
    )
    _pass_on(stop, process)
    if process.returncode:
        stop.check()
        raise PipelineError(
            f"expected {len(devices)} processes to end well, got one that did not (see above); "
            "run the same command again, which goes on"
        )


def _visible(devices: Sequence[torch.device]) -> dict[str, str]:
    """Return the variable that shows only these GPUs; none if a batch system assigns them."""
    if devices[0].type != "cuda" or "MLOPS_LAUNCH" in os.environ:
        return {}
    names = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    indices = [device.index or 0 for device in devices]
    return {"CUDA_VISIBLE_DEVICES": ",".join(names[i] if names else str(i) for i in indices)}


def _pass_on(stop: StopFlag, process: subprocess.Popen[bytes]) -> None:
    """Wait for the end of the process; what stops this one stops that one, once."""
    told = False
    while True:
        try:
            process.wait(_LOOK_EVERY_SEC)
            return
        except subprocess.TimeoutExpired:
            if stop.exit_code and not told:
                process.send_signal(_signal_of(stop.exit_code))
                told = True


def _signal_of(exit_code: int) -> signal.Signals:
    return next(number for number, code in EXIT_CODES.items() if code == exit_code)


def main(arguments: list[str]) -> int:
    """Run torch.distributed.run; report a failed process in one line instead of a traceback."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        run.main(arguments)
    except SignalException:
        return 1
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        code = failure.exitcode
        how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        stage = arguments[arguments.index("-m") + 1].rpartition(".")[2]
        print(f"{stage}: process {rank} (pid {failure.pid}) failed first: {how}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
