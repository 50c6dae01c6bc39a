"""The train stage in two processes: the same bytes twice, whatever is killed in between."""

import os
import shutil
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from mlops.metrics.log import read_metrics
from tests.support.clone import ROOT, run_stage, set_params
from tests.support.trainer import Trainer, lines, metadata, results, seen_once, the_run, train

EPOCHS = 8
PARAMS: dict[str, Any] = {
    # Each process draws its own, of which a checkpoint knows nothing.
    "init_model": {"dropout": 0.3},
    "train": {"epochs": EPOCHS, "batch_size": 4, "num_threads": 1, "schedule": "constant"},
    "runtime": {"checkpoint_every_sec": 0.01, "log_every_steps": 1, "num_processes": 2},
}


@pytest.fixture(scope="module")
def undisturbed(
    finished: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """Return a clone with the parameters above, and the results of a training of its own."""
    root = tmp_path_factory.mktemp("processes") / "clone"
    shutil.copytree(finished, root, symlinks=True)
    set_params(root, PARAMS)
    make_initial_weights(root)
    shutil.rmtree(root / "runs")
    train(root)
    assert seen_once(root, EPOCHS)
    assert "2 processes" in metadata(the_run(root))["fingerprint"]["device"]
    whole = results(root)
    shutil.rmtree(root / "runs")
    return root, whole


@pytest.fixture
def root(undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    return shutil.copytree(undisturbed[0], tmp_path / "clone", symlinks=True)


def make_initial_weights(root: Path) -> None:
    code, output = run_stage("init_model", "--model", "small3d", "--seed", "0", cwd=root)
    assert code == 0, output


def process_of_rank(root: Path, rank: int) -> int:
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "environ").read_bytes().split(b"\0")
            if f"RANK={rank}".encode() in words and (path / "cwd").readlink() == root:
                return int(path.name)
        except (OSError, ValueError):
            continue
    raise AssertionError(f"no process of rank {rank}")


def test_losses_are_those_of_one_process_in_two_parts(root: Path) -> None:
    set_params(root, {"init_model": {"dropout": 0.0}, "train": {"epochs": 1}})
    make_initial_weights(root)
    together = losses(root)
    set_params(root, {"runtime": {"num_processes": 1}, "train": {"micro_batches": 2}})
    alone = losses(root)
    assert len(alone) >= 5
    np.testing.assert_allclose(alone[:5], together[:5], rtol=1e-3)


def losses(root: Path) -> NDArray[np.float64]:
    """Return the loss of each step of a training."""
    train(root)
    rows = read_metrics(the_run(root) / "metrics.jsonl")
    shutil.rmtree(root / "runs")
    return rows.filter(pl.col("phase") == "step", pl.col("metric") == "loss")["value"].to_numpy()


def test_a_killed_process_and_a_signal_cost_nothing(
    undisturbed: tuple[Path, dict[str, Any]], root: Path
) -> None:
    trainer = Trainer(root)
    trainer.wait_for_step(3)
    os.kill(process_of_rank(root, 1), signal.SIGKILL)
    assert trainer.end() == 1
    assert "expected 2 processes to end well, got one that did not" in trainer.output
    assert "run the same command again, which goes on" in trainer.output

    trainer = Trainer(root)
    # The killed one may have left more lines than there were steps to wait for.
    trainer.wait_for("goes on with epoch")
    trainer.wait_for_step(lines(the_run(root), "ledger.jsonl") + 2)
    assert trainer.signal(signal.SIGUSR1) == 75
    attempts = metadata(the_run(root))["attempts"]
    assert attempts[1]["reason"].startswith("stopped by ")

    train(root)
    assert results(root) == undisturbed[1]
    assert seen_once(root, EPOCHS)


def test_two_machines_come_to_the_same_bytes_and_stop_together(
    undisturbed: tuple[Path, dict[str, Any]], root: Path
) -> None:
    set_params(root, {"runtime": {"num_processes": 1}})
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    env = {
        "MLOPS_LAUNCH": f"{sys.executable} {ROOT / 'tests/support/two_machines.py'}",
        "MLOPS_TORCHRUN": f"--nnodes=2 --rdzv-backend=c10d --rdzv-endpoint=127.0.0.1:{port}",
    }
    trainer = Trainer(root, **env)
    trainer.wait_for_step(5)
    assert trainer.signal(signal.SIGUSR1) == 75
    assert "stopped by " in metadata(the_run(root))["attempts"][0]["reason"]
    output = train(root, **env)
    assert "goes on with epoch" in output
    assert results(root) == undisturbed[1]


def test_a_killed_stage_leaves_no_process(root: Path) -> None:
    set_params(root, {"train": {"epochs": 10_000}})
    trainer = Trainer(root)
    trainer.wait_for_step(2)
    ranks = [process_of_rank(root, rank) for rank in range(2)]
    assert trainer.signal(signal.SIGKILL) == -signal.SIGKILL
    deadline = time.monotonic() + 60
    try:
        while any(Path(f"/proc/{rank}").exists() for rank in ranks):
            assert time.monotonic() < deadline, "they train on"
            time.sleep(0.05)
    finally:
        for rank in ranks:
            with suppress(ProcessLookupError):
                os.kill(rank, signal.SIGKILL)
    assert metadata(the_run(root))["attempts"][0]["reason"].startswith("stopped by ")


def test_one_process_goes_on_from_what_two_have_saved(root: Path) -> None:
    trainer = Trainer(root)
    trainer.wait_for_step(10)
    assert trainer.signal(signal.SIGTERM) == 143
    first = the_run(root)
    set_params(root, {"runtime": {"num_processes": 1, "resume": "compatible"}})
    output = train(root)
    assert f"which goes on from {first.name}" in output
    assert "2 processes ->" in output
    assert "and from there on only about so" in output
    assert seen_once(root, EPOCHS)


def test_normalization_over_all_processes_is_refused_on_a_cpu(root: Path) -> None:
    set_params(root, {"train": {"sync_batch_norm": True}})
    trainer = Trainer(root)
    assert trainer.end() == 1
    assert "train.sync_batch_norm: expected false on a CPU" in trainer.output
