"""Prediction beside the decoding that it cannot do without.

    python -m benchmarks.predicting [--rounds 5] [--videos 960] [--threads 1] [--sample FOLDER]

Videos of the sample (data/generated_sample by default, again and again up to the number asked for)
are read by two worker processes, as `python -m commands predict` does: a full decode with verdict
and facts, then the frames of a clip. Each round does that alone and with the predictions of a
small3d with random weights, in turns, with the processes already at work: start-up is told apart.

- clips/s: on the clock, so it needs a quiet machine with two cores.
- CPU ms per clip: user and system time of this process and of the workers; their ratio is that of
  the clips per second on two cores that nobody else uses and that never wait.
- Start-up: `python -m commands predict` of one video.

Limit: 0.9 of the clips per second of decoding alone.
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import torch

from commands.predict.models import predicted, without_clips
from commands.predict.reading import Task, read, videos_in
from mlops.determinism import make_deterministic
from mlops.files.checkpoint_file import State, save_checkpoint
from mlops.stage import run_command
from mlops.workers.pool import Executor, WorkerPool
from mlops.workers.worker import Limits
from stages.paths import SAMPLE
from video.clips.frames import DECODING_VERSION, ClipRecipe
from video.learning.trained import TrainedModel
from video.models.classifiers import build_model, normalization
from video.models.shape import ModelShape

LIMIT = 0.9
WORKERS = 2
CPU = torch.device("cpu")
LABELS = ["authentic", "tampered"]
RECIPE = ClipRecipe(frames=8, height=64, width=64, fit="letterbox")  # as in params.yaml

ALONE, PREDICTED = "decoding alone", "prediction"


@dataclass(frozen=True)
class Spent:
    """Seconds on the clock and of CPU, for so many clips."""

    num_clips: int
    wall_sec: float
    cpu_sec: float


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--videos", type=int, default=960)
    arguments.add_argument("--threads", type=int, default=1, help="of the model")
    arguments.add_argument("--sample", type=Path, default=SAMPLE)
    options = arguments.parse_args()
    make_deterministic(0, num_threads=options.threads)
    paths = videos_in([options.sample])
    tasks = [
        Task(path=path, recipe=RECIPE, max_duration_sec=600.0)
        for path in itertools.islice(itertools.cycle(paths), options.videos)
    ]
    state = random_model()
    print(f"start-up of the command: {start_up_sec(state, paths[0]):.1f} s")
    trained = TrainedModel.of_state(state, CPU)
    spent: dict[str, list[Spent]] = {ALONE: [], PREDICTED: []}
    limits = Limits(time_sec=300.0, memory_mb=2000)
    with WorkerPool(Executor(executor="processes", workers=WORKERS), limits) as pool:
        for model in (None, trained):
            measured(tasks[:32], pool, model)  # starts the processes, and fills caches
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}, load {os.getloadavg()[0]:.1f}")
            pair = {ALONE: None, PREDICTED: trained}
            for name in sorted(pair, reverse=number % 2 == 1):
                spent[name].append(measured(tasks, pool, pair[name]))
    print_table(spent)


def random_model() -> State:
    """Return what the file of a published model holds, with random weights."""
    shape = ModelShape(num_classes=len(LABELS), frames=8, height=64, width=64, dropout=0.3)
    network = build_model("small3d", shape)
    return {
        "model": network.state_dict(),
        "epoch": 1,
        "architecture": "small3d",
        "labels": LABELS,
        "shape": asdict(shape),
        "clips": asdict(RECIPE),
        "decoding": DECODING_VERSION,
        "normalization": normalization("small3d"),
    }


def start_up_sec(state: State, video: Path) -> float:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.pt"
        save_checkpoint(path, state)
        command = [sys.executable, "-m", "commands", "predict", str(path), str(video)]
        start = time.monotonic()
        subprocess.run([*command, "--device", "cpu"], check=True, stdout=subprocess.DEVNULL)
        return time.monotonic() - start


def measured(tasks: Sequence[Task], pool: WorkerPool, trained: TrainedModel | None) -> Spent:
    """Read the videos and, with a model, predict them; drop the clips as the command does."""
    start, cpu = time.monotonic(), cpu_sec()
    readings = read(tasks, pool)
    if trained is None:
        num_clips = sum(reading.clips is not None for reading in readings)
    else:
        made = [without_clips(each) for each in predicted(readings, [trained], CPU)]
        num_clips = sum(each.probabilities is not None for each in made)
    return Spent(num_clips, time.monotonic() - start, cpu_sec() - cpu)


def cpu_sec() -> float:
    """Return the user and system time of this process and of its workers so far."""
    process = psutil.Process()
    times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    return float(sum(each.user + each.system for each in times))


def print_table(spent: Mapping[str, Sequence[Spent]]) -> None:
    print("| | clips/s | CPU ms per clip |\n| --- | --- | --- |")
    for name, rounds in spent.items():
        speed = statistics.median(each.num_clips / each.wall_sec for each in rounds)
        cost = statistics.median(1e3 * each.cpu_sec / each.num_clips for each in rounds)
        print(f"| {name} | {speed:.1f} | {cost:.2f} |")
    pairs = list(zip(spent[ALONE], spent[PREDICTED], strict=True))
    for name, ratios in {
        "clips per second, on the clock": [a.wall_sec / b.wall_sec for a, b in pairs],
        "clips per second of CPU": [a.cpu_sec / b.cpu_sec for a, b in pairs],
    }.items():
        ratio = statistics.median(ratios)
        print(
            f"{name}: {ratio:.3f} of decoding alone ({min(ratios):.3f} to {max(ratios):.3f}), "
            f"{LIMIT} asked for: {'held' if ratio >= LIMIT else 'MISSED'}"
        )


if __name__ == "__main__":
    run_command("predicting", main)
