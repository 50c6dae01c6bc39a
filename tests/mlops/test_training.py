"""A training waits without a device for another of its identity, and one rank alone writes.

The devices are names here: the locks ask for no GPU, and these tests have none.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from mlops.processes.group import ProcessGroup
from mlops.processes.signals import StopFlag
from mlops.run.identity import TrainingIdentity
from mlops.training import TrainingProcess, TrainingRun, TrainingRuntime, open_run
from tests.support.learners import Weights

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[2]

# Trains, until it is told to end, what `identity` names on one of two devices.
TRAINS = """
import os, sys
from contextlib import contextmanager
from pathlib import Path
import torch
from mlops import training
from mlops.files.locks import DeviceLocks
from mlops.processes.signals import StopFlag
from mlops.run.identity import TrainingIdentity
from mlops.training import TrainingRuntime, open_run, run_on_devices

directory, identity = Path(sys.argv[1]), sys.argv[2]
os.chdir(directory)

@contextmanager
def two_devices(requested, *, count, work, log, check):
    locks = DeviceLocks(work=work, log=log, check=check, directory=directory)
    with locks.hold({"cuda:0": "GPU-aa", "cuda:1": "GPU-bb"}, count) as names:
        print("holds", *names, flush=True)
        yield [torch.device("cpu")] * count

def identify(devices):
    fingerprint = {"config": identity, "device": devices}
    return TrainingIdentity(
        config={}, fingerprint=fingerprint, trajectory="", cell=(), num_epochs=1
    )

def train(process):
    print("trains", flush=True)
    sys.stdin.readline()

training.claimed_devices = two_devices
run_on_devices(
    train, "none", identify,
    TrainingRuntime(
        device="auto", num_processes=1, checkpoint_every_sec=1.0, keep_epoch_checkpoints=0,
        resume="exact",
    ),
    work="a test", num_threads=1, stop=StopFlag(), log=lambda text: print(text, flush=True),
)
"""


class Training:
    def __init__(self, directory: Path, identity: str) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-c", TRAINS, str(directory), identity],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def says(self) -> str:
        assert self.popen.stdout is not None
        return self.popen.stdout.readline().strip()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], Training]]:
    started: list[Training] = []

    def begin(identity: str) -> Training:
        started.append(Training(tmp_path, identity))
        return started[-1]

    yield begin
    for training in started:
        training.popen.kill()
        training.popen.communicate()


def test_a_second_training_of_one_identity_leaves_the_other_device_to_a_third(
    start: Callable[[str], Training],
) -> None:
    first = start("one")
    assert (first.says(), first.says()) == ("holds cuda:0", "trains")
    second = start("one")
    assert second.says().startswith(
        f"waits for the lock of the same fingerprint, which process {first.popen.pid} on "
    )
    third = start("other")
    assert (third.says(), third.says()) == ("holds cuda:1", "trains")

    first.popen.communicate("\n", timeout=30)
    assert (second.says(), second.says()) == ("holds cuda:0", "trains")


def unasked(devices: str) -> TrainingIdentity:
    raise AssertionError(devices)


def test_a_rank_beside_the_first_writes_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    runtime = TrainingRuntime(
        device="cpu",
        num_processes=2,
        checkpoint_every_sec=0.0,
        keep_epoch_checkpoints=2,
        resume="exact",
    )
    process = TrainingProcess(
        device=CPU,
        group=ProcessGroup(rank=1, size=2),
        stop=StopFlag(),
        runtime=runtime,
        log=print,
    )
    # There is no first rank here to broadcast its state.
    monkeypatch.setattr(TrainingRun, "_share", lambda *_: None)
    with open_run(unasked, process, "demo", []) as run:
        session = run.restore("cell", Weights())
        with run.checkpoints(session) as checkpoints:
            for samples in ([3, 1], [2]):
                session.record_step(samples, 0.5, log_every_steps=1)
                session.check_in_place()
                checkpoints.save(session.state_dict())
            assert (session.progress.batch, session.progress.mean_loss) == (2, 0.5)
            run.report_epoch(session, took_sec=1.0, waited_sec=0.0)
            session.log({"micro_batch": 1}, phase="step")
            session.record_epoch({"learning_rate": 0.1}, {"loss": 0.3}, is_best=True)
        assert [*tmp_path.rglob("*")] == []

    assert (session.progress.epoch, session.progress.step) == (1, 2)
    assert session.progress.best_metrics == {"loss": 0.3}
    assert capsys.readouterr().out == ""
