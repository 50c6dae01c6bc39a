"""Measurements that need a GPU: speed of training beside one resident batch, and the promises.

    python -m benchmarks.gpu [--parts throughput,copies,memory,scaler,resume,locks] [--json FILE]

Wall-clock time, under 8 minutes on an H100. Needs one GPU; no DVC, git or network.

- throughput: clips per second of r3d_18 (16 frames of 112x112), mvit_v2_s (16 of 224x224) and
  small3d (8 of 64x64), in interleaved rounds. "resident" is a plain loop over one batch that stays
  on the device, with torch's defaults; "deterministic" the same under `make_deterministic`;
  "learner" `Learner.step` on one batch in memory; "packs" the same from files, read ahead by
  `Prefetched`, as the train stage does.
- copies: a batch from pinned and from pageable memory to the device.
- memory: a step that does not fit, in a process with limited memory on the device, and the weights
  after it, which must be those of a learner that began with the smaller micro-batches.
- scaler: float16, an infinite gradient, state saved and loaded: both go on with equal bits.
- resume: the train stage on the sample, once undisturbed and once killed (SIGKILL) at random
  moments after its first checkpoint until it is done; model, history and logged rows must be equal.
- locks: two trainers at once on one GPU; the second waits and logs the owner.
"""

import argparse
import hashlib
import io
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import nn

from mlops.determinism import make_deterministic
from mlops.files.yaml_text import replace_values
from mlops.metrics.log import read_metrics
from stages.params import read_params
from stages.paths import Cell
from video.clips.loading import Batch, ClipSet
from video.clips.prefetch import Prefetched
from video.learning.learner import Learner
from video.learning.losses import WeightedCrossEntropy
from video.learning.optimizer_config import OptimizerConfig
from video.learning.predict import batch_memory, on_device
from video.models.classifiers import Normalize, build_model, head_of
from video.models.shape import ModelShape

ROOT = Path(__file__).parents[1]
NUM_THREADS = 8
ROUNDS, STEPS = 5, 20

# model: frames, side in pixels, clips in a batch, precision
WORKLOADS = {
    "r3d_18": (16, 112, 32, "bfloat16"),
    "mvit_v2_s": (16, 224, 16, "bfloat16"),
    "small3d": (8, 64, 64, "bfloat16"),
}

# Variants of the killed trainings: their model, and keys of params.yaml.
TRAININGS: dict[str, tuple[str, dict[str, Any]]] = {
    "float32, dropout, EMA, clipping": (
        "small3d",
        {"train.ema_decay": 0.99, "train.clip_norm": 1.0, "train.warmup_steps": 20},
    ),
    "float16 with its scaler": ("small3d", {"train.precision": "float16"}),
    "bfloat16, copies made online": (
        "small3d",
        {"train.precision": "bfloat16", "augment.online": True, "train.micro_batches": 2},
    ),
    "r3d_18, bfloat16": ("r3d_18", {"train.precision": "bfloat16", "train.epochs": 6}),
    "compiled": ("small3d", {"train.compile": True, "train.precision": "bfloat16"}),
}

MODELS = sorted({model for model, _ in TRAININGS.values()})

Step = Callable[[], object]
Results = dict[str, Any]


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--parts", default=",".join(PARTS))
    arguments.add_argument("--json", type=Path)
    arguments.add_argument("--device", default="cuda", help="cpu tries the script out")
    arguments.add_argument("--steps", type=int, default=STEPS)
    arguments.add_argument("--rounds", type=int, default=ROUNDS)
    options = arguments.parse_args()
    make_deterministic(0, num_threads=NUM_THREADS)
    results: Results = {"torch": str(torch.__version__), "device": options.device}
    if options.device == "cuda":
        results["device"] = torch.cuda.get_device_name()
    print(f"{results['device']}, torch {results['torch']}", flush=True)
    for name in options.parts.split(","):
        began = time.monotonic()
        results[name] = attempted(partial(PARTS[name], options))
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
        if options.json:
            options.json.write_text(json.dumps(results, indent=2) + "\n")


def attempted(measure: Callable[[], Results]) -> Results | str:
    """Return the measurement, or its error, so that the others still run."""
    try:
        return measure()
    except Exception as error:  # noqa: BLE001
        print(f"{type(error).__name__}: {error}", flush=True)
        return f"{type(error).__name__}: {error}"


# Throughput


def throughput(options: argparse.Namespace) -> Results:
    return {name: attempted(partial(_throughput_of, name, options)) for name in WORKLOADS}


def _throughput_of(name: str, options: argparse.Namespace) -> Results:
    frames, side, batch_size, precision = WORKLOADS[name]
    device = torch.device(options.device)
    loops: dict[str, tuple[bool, Step]] = {}
    with tempfile.TemporaryDirectory() as directory:
        clips = random_clips(Path(directory), (frames, side, side, 3), count=4 * batch_size)
        loops["resident"] = (False, plain_step(name, clips, device))
        loops["deterministic"] = (True, plain_step(name, clips, device))
        learner = new_learner(name, clips, device, precision=precision)
        batch = Batch(
            clips=clips.read(range(batch_size)),
            labels=clips.targets[:batch_size],
            rows=range(batch_size),
        )
        loops["learner"] = (True, lambda: learner.step(batch))
        batches = endless(clips, batch_size, device)
        reader = new_learner(name, clips, device, precision=precision)
        loops["packs"] = (True, lambda: reader.step(next(batches)))
        speeds: dict[str, list[float]] = {label: [] for label in loops}
        for number in range(options.rounds + 1):
            for label, (deterministic, step) in loops.items():
                set_deterministic(deterministic)
                took = seconds_of(step, options.steps if number else 4, device)
                if number:  # the first round warms up
                    speeds[label].append(batch_size * options.steps / took)
        set_deterministic(True)
        batches.close()
    medians = {label: statistics.median(values) for label, values in speeds.items()}
    print(f"{name}, {frames} frames of {side}x{side}, {precision}, batches of {batch_size}:")
    for label, value in medians.items():
        print(f"  {label:14} {value:9.1f} clips/s  {value / medians['resident']:.3f}", flush=True)
    return medians


def set_deterministic(value: bool) -> None:
    """Switch between torch's defaults and the settings of `make_deterministic`."""
    torch.set_deterministic_debug_mode("error" if value else "default")
    torch.backends.cudnn.deterministic = value


def seconds_of(step: Step, count: int, device: torch.device) -> float:
    synchronize(device)
    began = time.perf_counter()
    for _ in range(count):
        step()
    synchronize(device)
    return time.perf_counter() - began


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def plain_step(name: str, clips: ClipSet, device: torch.device) -> Step:
    """Return a step of a plain loop on one batch that stays on the device; it waits for nothing."""
    _, _, batch_size, precision = WORKLOADS[name]
    model, normalize = new_model(name, clips, device)
    optimizer = torch.optim.AdamW(model.parameters())
    images = on_device(clips.read(range(batch_size)), device)
    labels = torch.from_numpy(clips.targets[:batch_size]).to(device)
    targets = nn.functional.one_hot(labels, 2).float()

    def step() -> None:
        with torch.autocast(device.type, getattr(torch, precision)):
            logits = model(normalize(images))
        loss = nn.functional.cross_entropy(logits.float(), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def new_model(name: str, clips: ClipSet, device: torch.device) -> tuple[nn.Module, nn.Module]:
    frames, height, width, _ = clips.clip_shape
    torch.manual_seed(0)
    shape = ModelShape(num_classes=2, frames=frames, height=height, width=width, dropout=0.3)
    return build_model(name, shape).to(device), Normalize(name).to(device)


def new_learner(name: str, clips: ClipSet, device: torch.device, **changes: Any) -> Learner:
    train = vars(read_params().train)
    fields = {field: train[field] for field in OptimizerConfig.__dataclass_fields__}
    fields["batch_size"] = WORKLOADS[name][2]
    model, normalize = new_model(name, clips, device)
    return Learner(
        model,
        normalize,
        OptimizerConfig(**fields | changes),
        head=head_of(name, model),
        loss=WeightedCrossEntropy(torch.ones(2), 0.0),
        num_batches=1000,
        device=device,
    )


def random_clips(directory: Path, shape: tuple[int, ...], *, count: int) -> ClipSet:
    """Write `count` packs of one clip of noise, and return the set of them."""
    generator = np.random.default_rng(0)
    rows = []
    for number in range(count):
        content = generator.integers(0, 256, shape, np.uint8).tobytes()
        (directory / f"{number}").write_bytes(content)
        place = {"pack": f"{number}", "offset_bytes": 0}
        place |= {"clip_sha256": hashlib.sha256(content).hexdigest()}
        named = {"video_path": f"{number}", "sha256": f"{number}", "group": f"{number}"}
        size = dict(zip(("frames", "height", "width"), shape[:3], strict=True))
        rows.append(place | named | size | {"label": "ab"[number % 2]})
    return ClipSet(pl.DataFrame(rows), [directory] * count, ["a", "b"])


def endless(clips: ClipSet, batch_size: int, device: torch.device) -> Any:
    """Yield batches as the train stage reads them, epoch after epoch, read ahead in one go."""
    order = list(range(len(clips))) * 1000

    def batches() -> Iterator[Batch]:
        yield from Prefetched(clips.batches(order, batch_size, allocate=batch_memory(device)))

    return batches()


# Copies to the device


def copies(options: argparse.Namespace) -> Results:
    """Measure the copy of a batch of 32 clips of 16x112x112, as `Learner` makes it."""
    device = torch.device(options.device)
    shape = (32, 16, 112, 112, 3)
    allocate = batch_memory(device)
    arrays = {"pageable": np.zeros(shape, np.uint8)}
    if allocate is not None:
        arrays["pinned"] = allocate(shape)
        assert torch.as_tensor(arrays["pinned"]).is_pinned()
    rates = {}
    for name, array in arrays.items():
        array[...] = 1
        seconds = [
            seconds_of(lambda array=array: on_device(array, device), 20, device)  # type: ignore[misc]
            for _ in range(options.rounds)
        ]
        rates[name] = 20 * array.nbytes / statistics.median(seconds) / 1e9
        print(f"copy from {name} memory: {rates[name]:.1f} GB/s", flush=True)
    return rates


# A step that does not fit


def memory(options: argparse.Namespace) -> Results:
    """Compare a learner that ran out of memory with one that began with smaller micro-batches."""
    device = torch.device(options.device)
    with tempfile.TemporaryDirectory() as directory:
        clips = random_clips(Path(directory), (16, 112, 112, 3), count=64)
        learner = new_learner("r3d_18", clips, device, batch_size=64)
        batch = Batch(clips=clips.read(range(64)), labels=clips.targets, rows=range(64))
        if device.type == "cuda":
            total = torch.cuda.get_device_properties(device).total_memory
            torch.cuda.set_per_process_memory_fraction(8e9 / total)
        try:
            draw_again(device)
            losses = [learner.step(batch) for _ in range(3)]
        finally:
            if device.type == "cuda":
                torch.cuda.set_per_process_memory_fraction(1.0)
        other = new_learner("r3d_18", clips, device, batch_size=64)
        other.micro_batch = learner.micro_batch
        draw_again(device)
        expected = [other.step(batch) for _ in range(3)]
    found = {
        "events": [vars(event) for event in learner.events],
        "steps": learner.steps_done,
        "same losses": losses == expected,
        "same bits": digest(learner.state_dict()) == digest(other.state_dict()),
    }
    print(json.dumps(found, indent=1), flush=True)
    return found


def draw_again(device: torch.device) -> None:
    """Seed the generators that dropout draws from."""
    torch.manual_seed(1)
    if device.type == "cuda":
        torch.cuda.manual_seed(1)


def digest(state: Any) -> str:
    """Return the sha256 of the values in a state, whatever their device."""
    buffer = io.BytesIO()
    torch.save(on_cpu(state), buffer)
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def on_cpu(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: on_cpu(item) for key, item in value.items()}
    return value.detach().cpu().clone() if isinstance(value, torch.Tensor) else value


# The scaler of float16


def scaler(options: argparse.Namespace) -> Results:
    """Save and load a float16 learner after a skipped step, and compare both after the next."""
    device = torch.device(options.device)
    precision = "float16" if device.type == "cuda" else "bfloat16"
    with tempfile.TemporaryDirectory() as directory:
        clips = random_clips(Path(directory), (8, 64, 64, 3), count=64)
        batch = Batch(clips=clips.read(range(64)), labels=clips.targets, rows=range(64))
        learner = new_learner("small3d", clips, device, precision=precision)
        draw_again(device)
        learner.step(batch)
        parameter = next(iter(learner.model.parameters()))
        hook = parameter.register_hook(lambda gradient: gradient * float("inf"))  # type: ignore[no-untyped-call]
        before = learner.state_dict()["scaler"].get("scale")
        if device.type == "cuda":
            learner.step(batch)
        hook.remove()
        learner.step(batch)
        saved = io.BytesIO()
        torch.save(learner.state_dict(), saved)
        other = new_learner("small3d", clips, device, precision=precision)
        other.load_state_dict(torch.load(io.BytesIO(saved.getvalue()), weights_only=True))
        pair = []
        for each in (learner, other):
            draw_again(device)
            pair.append([each.step(batch) for _ in range(5)])
    state = learner.state_dict()
    found = {
        "scale": [before, state["scaler"].get("scale")],
        "same losses": pair[0] == pair[1],
        "same bits": digest(state) == digest(other.state_dict()),
    }
    print(json.dumps(found), flush=True)
    return found


# The train stage


def resume(options: argparse.Namespace) -> Results:
    with tempfile.TemporaryDirectory() as directory:
        root = new_project(Path(directory), options.device)
        found: Results = {}
        for name, (model, values) in TRAININGS.items():
            found[name] = attempted(partial(killed_and_whole, root, model, values))
            print(f"{name}: {json.dumps(found[name])}", flush=True)
        return found


def new_project(directory: Path, device: str) -> Path:
    """Return a copy of the repository in which the data stages have run."""
    for name in ("stages", "video", "mlops", "params.yaml", "dvc.yaml"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        copy(ROOT / name, directory / name)
    (directory / "data").mkdir()
    edit(
        directory,
        {
            "runtime.device": device,
            "runtime.checkpoint_every_sec": 0.05,
            "train.epochs": 24,
            "train.num_threads": NUM_THREADS,
            "models": MODELS,
            "seeds": [0, 1],
        },
    )
    for stage in (
        "sample", "load_data", "create_dataset", "create_splits", "generate_augmentations"
    ):  # fmt: skip
        finish(start_stage(directory, stage))
    for model in MODELS:
        for seed in ("0", "1"):
            finish(start_stage(directory, "init_model", "--model", model, "--seed", seed))
    return directory


def edit(root: Path, values: dict[str, Any]) -> None:
    path = root / "params.yaml"
    path.write_text(replace_values(path.read_text(), values))


def start_stage(root: Path, stage: str, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", f"stages.{stage}", *words],
        cwd=root,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(root), *sys.path[1:]])},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{process.args!r}: exit code {process.returncode}: {output[-2000:]}")
    return output


def killed_and_whole(root: Path, model: str, values: dict[str, Any]) -> Results:
    original = (root / "params.yaml").read_text()
    edit(root, values)
    cell = Cell(model=model, fold=0, seed=0)
    words = [word for key, value in vars(cell).items() for word in (f"--{key}", str(value))]
    try:
        began = time.monotonic()
        output = finish(start_stage(root, "train", *words))
        took = time.monotonic() - began
        whole = published(root, cell)
        kills, resumed = 0, 0
        chance = random.Random(0)
        while True:
            process = start_stage(root, "train", *words)
            if kills >= 3 or not killed_after_checkpoint(root, process, chance):
                resumed += "goes on with epoch" in finish(process)
                break
            kills += 1
            assert process.stdout is not None
            resumed += "goes on with epoch" in process.stdout.read()
        finish(start_stage(root, "evaluate", *words))
        again = published(root, cell)
    finally:
        (root / "params.yaml").write_text(original)
    same = {name: whole[name] == again[name] for name in whole}
    return {"sec": round(took, 1), "kills": kills, "resumed": resumed} | same | {
        "published": next(line for line in output.splitlines() if "publishes epoch" in line)
    }  # fmt: skip


def published(root: Path, cell: Cell) -> dict[str, Any]:
    """Return the published files of a training, and move its runs away for a new start."""
    (log,) = root.glob("runs/*/*/metrics.jsonl")
    rows = read_metrics(log).drop("time")
    found = {
        "model": hashlib.md5((root / cell.best_model).read_bytes()).hexdigest(),
        "history": hashlib.md5((root / cell.history).read_bytes()).hexdigest(),
        "rows": rows.write_csv(),
    }
    shutil.rmtree(root / "runs")
    (root / cell.best_model).unlink()
    return found


def killed_after_checkpoint(
    root: Path, process: subprocess.Popen[str], chance: random.Random
) -> bool:
    """Kill the group of a trainer up to a second after it has saved a state."""
    before = newest_state(root)
    while process.poll() is None and newest_state(root) == before:
        time.sleep(0.01)
    time.sleep(chance.random())
    if process.poll() is not None:
        return False
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return True


def newest_state(root: Path) -> float:
    times = []
    for path in root.glob("runs/*/*/checkpoints/*.pt"):
        try:
            times.append(path.stat().st_mtime)
        except FileNotFoundError:  # replaced meanwhile
            continue
    return max(times, default=0.0)


def locks(options: argparse.Namespace) -> Results:
    with tempfile.TemporaryDirectory() as directory:
        root = new_project(Path(directory), options.device)
        cell = ("--model", "small3d", "--fold", "0", "--seed")
        pair = [start_stage(root, "train", *cell, seed) for seed in ("0", "1")]
        outputs = [finish(process) for process in pair]
    waits = [line for text in outputs for line in text.splitlines() if "waits for" in line]
    print("\n".join(waits), flush=True)
    return {"waits": waits}


PARTS: dict[str, Callable[[argparse.Namespace], Results]] = {
    "throughput": throughput,
    "copies": copies,
    "memory": memory,
    "scaler": scaler,
    "resume": resume,
    "locks": locks,
}


if __name__ == "__main__":
    main()
