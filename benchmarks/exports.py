"""All models in all formats of `python -m commands export`: which can be written, and how exactly.

    python -m benchmarks.exports [--models MODEL…] [--frames 8] [--side 64]

The weights are random, batch normalization has seen random clips, and the head is scaled so that
the probabilities of clips differ: of a model that gives the same for all, parity would say nothing.

Limit: no probability differs by more than 1e-4 from the model's own, in batches of 1 and 3.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from mlops.stage import run_command
from video.export.formats import FORMATS, Classifier, NotExportableError
from video.export.parity import MAX_DIFFERENCE, largest_difference
from video.models.classifiers import Normalize, build_model, head_of
from video.models.registry import MODULES
from video.models.shape import ModelShape

NUM_CLIPS = 6
LOGITS_STD = 1.0


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--models", nargs="+", choices=list(MODULES), default=list(MODULES))
    arguments.add_argument("--frames", type=int, default=8)
    arguments.add_argument("--side", type=int, default=64)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    print(f"| {' | '.join(['model', 'clips differ by', *FORMATS])} |")
    print(f"|{' --- |' * (2 + len(FORMATS))}")
    for name in options.models:
        side = options.side
        shape = ModelShape(
            num_classes=3, frames=options.frames, height=side, width=side, dropout=0.3
        )
        print(f"| {' | '.join([f'`{name}`', *row(name, shape)])} |", flush=True)


def row(name: str, shape: ModelShape) -> Sequence[str]:
    """Return by how much the probabilities of clips differ, and the outcome of each format."""
    size = (shape.frames, shape.height, shape.width)
    clips = np.random.default_rng(0).integers(0, 256, (NUM_CLIPS, *size, 3), dtype=np.uint8)
    clips //= np.arange(1, NUM_CLIPS + 1, dtype=np.uint8).reshape(-1, 1, 1, 1, 1)  # some darker
    model = lively(name, shape, torch.from_numpy(clips))
    with torch.no_grad():
        expected = model(torch.from_numpy(clips)).double().numpy()
    metadata = {"model_name": name, "model_shape": json.dumps(asdict(shape))}
    outcomes = []
    for form in FORMATS.values():
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="exports-") as place:
            path = Path(place, f"model{form.suffix}")
            try:
                form.export(model, size, metadata, path)
            except NotExportableError as error:
                outcomes.append(f"not exportable: {error}")
                continue
            difference = largest_difference(form.load(path), clips, expected)
            megabytes = path.stat().st_size / 1e6
        met = "" if difference <= MAX_DIFFERENCE else "missed: "
        took_sec = time.monotonic() - began
        outcomes.append(f"{met}{difference:.0e}, {megabytes:.1f} MB, {took_sec:.0f} s")
    return [f"{np.ptp(expected, axis=0).max():.2f}", *outcomes]


def lively(name: str, shape: ModelShape, clips: torch.Tensor) -> Classifier:
    torch.manual_seed(0)
    network, normalize = build_model(name, shape), Normalize(name)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.momentum = None  # the mean over all that it has seen
    with torch.no_grad():
        for _ in range(3):
            network(normalize(clips))
        logits = network.eval()(normalize(clips))
        for weights in head_of(name, network)[-1].parameters():
            weights.mul_(LOGITS_STD / logits.std(0).mean())
    return Classifier(network, normalize)


if __name__ == "__main__":
    run_command("exports", main)
