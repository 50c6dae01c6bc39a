"""Cost of saving a state of 400 MB, of the train stage beside a bare loop, and of resuming.

    python -m benchmarks.checkpoints [--rounds 5] [--parts saving,training,resuming]

Wall-clock time, so it needs a quiet machine; the rounds are interleaved, medians are printed.

- Saving: the state of r3d_18 with AdamW, 33.2 million weights and twice as many moments. "Stall" is
  the time of the call in the training loop, "total" the time until the file is durable. Beside them
  the limits: a copy of as many bytes into allocated memory, and a plain write of them with fsync.
  "Loop" is the time that a loop of small matrix products loses while the file is written.
- Training: the clips per second of the stage, with tracker, ledger and a checkpoint every 30 s and
  after every epoch, and of a plain loop (`benchmarks.bare_loop`) over batches in memory, with
  torch's defaults and keeping freed memory as the stage does.
- Resuming: from the start of the process until the first step of a resumed run begins, and the time
  to import torch and load the same file in a process of its own. For small3d, and for r3d_18, which
  also imports torchvision.

Limits: a stall of twice the copy; a total of 1.2 times the write; 0.98 of the bare loop; 1 s.
"""

import argparse
import importlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mlops.checkpoint import CheckpointManager
from mlops.files import atomic
from mlops.metrics.log import read_metrics
from tests.support.clone import commit, copy_repository, dvc, environment, set_params

LIMIT_STALL, LIMIT_TOTAL, LIMIT_TRAINING, LIMIT_RESUMING_SEC = 2.0, 1.2, 0.98, 1.0
NUM_THREADS = 2

LOADS = """
import sys
import torch
state = torch.load(sys.argv[1], weights_only=True)
"""


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--parts", default="saving,training,resuming")
    options = arguments.parse_args()
    torch.set_num_threads(NUM_THREADS)
    parts = {"saving": saving, "training": training, "resuming": resuming}
    for name in options.parts.split(","):
        print(f"{name}, load {os.getloadavg()[0]:.1f}", flush=True)
        parts[name](options.rounds)


# Saving


Saver = Callable[[Path, dict[str, Any]], tuple[float, float]]  # seconds of stall, and in all


def saving(rounds: int) -> None:
    state = r3d_state()
    tensors = [tensor.flatten() for group in state.values() for tensor in group.values()]
    content = torch.cat(tensors).numpy().view(np.uint8)
    savers = {"ours": ours(), **other_savers()}
    spent: dict[str, list[tuple[float, ...]]] = {}
    with tempfile.TemporaryDirectory() as directory:
        for number in range(rounds + 1):
            print(f"round {number} of {rounds}", flush=True)
            figures: dict[str, tuple[float, ...]] = {
                "copy": (copying(content),),
                "write": (writing(Path(directory), memoryview(content.data)),),
            }
            for name, saver in savers.items():
                settle()
                figures[name] = saver(Path(directory), state)
                if name == "ours":
                    figures["loop"] = loop_loss(Path(directory), state, saver)
            if number:  # the first one takes memory for its buffers
                for name, seconds in figures.items():
                    spent.setdefault(name, []).append(seconds)
    print_saving(spent, content.nbytes)


def r3d_state() -> dict[str, dict[str, torch.Tensor]]:
    """Return weights with the shapes of r3d_18, and AdamW's two moments of each."""
    from torchvision.models.video import r3d_18

    weights = {name: tensor.detach() for name, tensor in r3d_18().state_dict().items()}
    weights = {name: tensor.float() for name, tensor in weights.items()}
    moments = {
        moment: {name: torch.randn_like(tensor) for name, tensor in weights.items()}
        for moment in ("exp_avg", "exp_avg_sq")
    }
    return {"model": weights, **moments}


def copying(content: NDArray[np.uint8]) -> float:
    target = np.zeros_like(content)
    return median_of(lambda: np.copyto(target, content))


def writing(directory: Path, content: memoryview) -> float:
    settle()
    began = time.perf_counter()
    with atomic.replacing(directory / "plain") as temporary, temporary.open("wb", 0) as file:
        while content:
            content = content[file.write(content[: 1 << 24]) :]
    return time.perf_counter() - began


def ours() -> Saver:
    managers: dict[Path, CheckpointManager] = {}

    def save(directory: Path, state: dict[str, Any]) -> tuple[float, float]:
        manager = managers.setdefault(
            directory, CheckpointManager(directory, keep_epochs=0, every_sec=0.0)
        )
        began = time.perf_counter()
        manager.save(state)
        stall = time.perf_counter() - began
        manager.wait()
        return stall, time.perf_counter() - began

    return save


def other_savers() -> dict[str, Saver]:
    found: dict[str, Saver] = {
        "torch.save, fsync, rename": blocking(save_torch, durable=True),
        "torch.save": blocking(save_torch, durable=False),
        "dcp.async_save": async_save(staged=False),
        "dcp.async_save, DefaultStager": async_save(staged=True),
    }
    for name, module, saver in (
        ("safetensors, fsync, rename", "safetensors.torch", save_safetensors),
        ("Lightning TorchCheckpointIO", "lightning", save_lightning),
    ):
        try:
            importlib.import_module(module)
        except ImportError:
            print(f"{name}: not installed")
            continue
        found[name] = blocking(saver, durable=name.startswith("safetensors"))
    return found


def blocking(save: Callable[[Path, dict[str, Any]], None], *, durable: bool) -> Saver:
    """Return a saver that blocks the loop until the file is written."""

    def timed(directory: Path, state: dict[str, Any]) -> tuple[float, float]:
        began = time.perf_counter()
        path = directory / "peer"
        if durable:
            with atomic.replacing(path) as temporary:
                save(temporary, state)
        else:
            save(path, state)
        took = time.perf_counter() - began
        return took, took

    return timed


def save_torch(path: Path, state: dict[str, Any]) -> None:
    torch.save(state, path)


def save_safetensors(path: Path, state: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    flat = {f"{group}.{name}": t for group, tensors in state.items() for name, t in tensors.items()}
    save_file(flat, path)


def save_lightning(path: Path, state: dict[str, Any]) -> None:
    from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

    TorchCheckpointIO().save_checkpoint(state, path)


def async_save(*, staged: bool) -> Saver:
    stagers: list[Any] = []

    def save(directory: Path, state: dict[str, Any]) -> tuple[float, float]:
        import torch.distributed.checkpoint as dcp
        from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

        options: dict[str, Any] = {}
        if staged:
            plain = StagingOptions(
                use_pinned_memory=torch.cuda.is_available(),
                use_shared_memory=True,
                use_async_staging=True,
                use_non_blocking_copy=torch.cuda.is_available(),
            )
            stagers[:] = stagers or [DefaultStager(plain)]
            options["async_stager"] = stagers[0]
        target = directory / "dcp"
        shutil.rmtree(target, ignore_errors=True)
        began = time.perf_counter()
        response: Any = dcp.async_save(  # type: ignore[attr-defined]
            state, checkpoint_id=str(target), no_dist=True, **options
        )
        upload = response
        if staged:
            response.staging_completion.result()  # before it the next step may not begin
            upload = response.upload_completion
        stall = time.perf_counter() - began
        upload.result()
        return stall, time.perf_counter() - began

    return save


def loop_loss(directory: Path, state: dict[str, Any], save: Saver) -> tuple[float, ...]:
    """Return the seconds that a loop loses while a thread writes, without the call itself."""
    settle()
    undisturbed = products()
    manager = CheckpointManager(directory, keep_epochs=0, every_sec=0.0)
    manager.save(state)
    manager.wait()
    settle()
    manager.save(state)
    disturbed = products()
    manager.close()
    return (disturbed - undisturbed,)


def products() -> float:
    a = torch.randn(512, 512)
    began = time.perf_counter()
    for _ in range(400):
        a @ a
    return time.perf_counter() - began


def settle() -> None:
    """Wait until the disk has finished earlier writes."""
    os.sync()


def print_saving(spent: dict[str, list[tuple[float, ...]]], num_bytes: int) -> None:
    copy, write, loop = (medians(spent.pop(name))[0] for name in ("copy", "write", "loop"))
    print(f"\n{num_bytes / 1e6:.0f} MB: copy {copy * 1e3:.0f} ms, write and fsync {write:.3f} s\n")
    print(
        "| method | stall ms | of the copy | total s | of the write |\n| --- " + "| --- " * 4 + "|"
    )
    for name, seconds in spent.items():
        stall, total = medians(seconds)
        print(
            f"| {name} | {stall * 1e3:.0f} | {stall / copy:.1f} | {total:.3f} | "
            f"{total / write:.2f} |"
        )
    stall, total = medians(spent["ours"])
    print(f"\nthe loop beside the writing lost {loop * 1e3:.0f} ms")
    verdict("stall", stall / copy, LIMIT_STALL, "times the copy")
    verdict("total", total / write, LIMIT_TOTAL, "times the write")


# Training


def training(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        root = prepared(Path(directory), TRAINING)
        stage: list[float] = []
        bare: dict[str, list[float]] = {"as torch comes": [], "keeping freed memory": []}
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}, load {os.getloadavg()[0]:.1f}", flush=True)
            shutil.rmtree(root / "runs", ignore_errors=True)
            train(root)
            (timings,) = root.glob("runs/*/run_*/timings.jsonl")
            rows = [json.loads(line) for line in timings.read_text().splitlines()]
            stage.append(sum(row["took_sec"] for row in rows))
            waited = sum(row["waited_sec"] for row in rows) / stage[-1]
            print(f"  stage {stage[-1]:.2f} s ({waited:.1%} waiting)")
            for (name, seconds), flags in zip(
                bare.items(), ([], ["--keep-freed-memory"]), strict=True
            ):
                output = python(root, "-m", "benchmarks.bare_loop", *flags)
                seconds.append(sum(json.loads(output.splitlines()[-1])))
                print(f"  bare loop {name} {seconds[-1]:.2f} s")
    print(f"\n{statistics.median(stage):.1f} s of training; medians of the rounds' ratios")
    for name, seconds in bare.items():
        ratio = statistics.median(b / s for b, s in zip(seconds, stage, strict=True))
        print(f"bare loop {name}: {statistics.median(seconds):.1f} s")
        verdict("speed", ratio, LIMIT_TRAINING, "of it", is_min=True)


TRAINING: dict[str, Any] = {
    "train": {"epochs": 8, "num_threads": 1},
    "runtime": {"device": "cpu", "checkpoint_every_sec": 30.0},
}


# Resuming


def resuming(rounds: int) -> None:
    for model in RESUMED:
        print(f"\n{model}")
        resuming_of(model, rounds)


def resuming_of(model: str, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        root = prepared(Path(directory), RESUMING | {"models": [model]})
        ahead, baseline = [], []
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}, load {os.getloadavg()[0]:.1f}", flush=True)
            shutil.rmtree(root / "runs", ignore_errors=True)
            until_step(root, model, 2)
            (latest,) = root.glob("runs/*/run_*/checkpoints/latest_checkpoint.pt")
            settle()
            began = time.monotonic()
            python(root, "-c", LOADS, str(latest))
            baseline.append(time.monotonic() - began)
            first, step = until_step(root, model, 3)
            ahead.append(first - step)
            print(
                f"  {latest.stat().st_size / 1e6:.0f} MB: first step after {ahead[-1]:.2f} s, "
                f"import and load {baseline[-1]:.2f} s"
            )
    more = statistics.median(a - b for a, b in zip(ahead, baseline, strict=True))
    print(
        f"\nfirst resumed step after {statistics.median(ahead):.2f} s, import of torch and load "
        f"of the file {statistics.median(baseline):.2f} s"
    )
    verdict("more than import and load", more, LIMIT_RESUMING_SEC, "s")


RESUMED = ("small3d", "r3d_18")

RESUMING: dict[str, Any] = {
    "clips": {"height": 32, "width": 32},
    "train": {"batch_size": 2, "epochs": 1, "num_threads": 2},
    "runtime": {"device": "cpu", "log_every_steps": 1, "checkpoint_every_sec": 1000.0},
}


def until_step(root: Path, model: str, more: int) -> tuple[float, float]:
    """Stop the stage after `more` steps; return the seconds until the first, and of the last."""
    began = time.time()
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.train", "--model", model, "--fold", "0", "--seed", "0"],
        cwd=root,
        env=environment(),
        stdout=subprocess.DEVNULL,
    )
    times: list[float] = []
    while len(times) < more:
        logs = list(root.glob("runs/*/run_*/metrics.jsonl"))
        if logs and logs[0].stat().st_size:
            logged = read_metrics(logs[0]).filter(phase="step")["time"]
            times = [t for t in logged.to_list() if t > began]
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143
    return times[0] - began, times[-1] - times[-2]


def prepared(directory: Path, changes: dict[str, Any]) -> Path:
    """Return a clone in which all stages before training have run."""
    root = directory / "clone"
    root.mkdir()
    copy_repository(root)
    set_params(root, changes)
    commit(root, "benchmark")
    dvc("repro", "generate_augmentations", "init_model", cwd=root)
    return root


def train(root: Path) -> None:
    python(root, "-m", "stages.train", "--model", "small3d", "--fold", "0", "--seed", "0")


def python(root: Path, *arguments: str) -> str:
    result = subprocess.run(
        [sys.executable, *arguments], cwd=root, env=environment(), text=True, capture_output=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def median_of(work: Callable[[], Any], times: int = 5) -> float:
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def medians(rows: list[tuple[float, ...]]) -> list[float]:
    return [statistics.median(column) for column in zip(*rows, strict=True)]


def verdict(name: str, value: float, limit: float, unit: str, *, is_min: bool = False) -> None:
    reached = value >= limit if is_min else value <= limit
    bound = "at least" if is_min else "at most"
    print(f"{name}: {value:.2f} {unit}, {bound} {limit}: {'reached' if reached else 'MISSED'}")


if __name__ == "__main__":
    main()
