"""Plain training loop over batches in memory: the reference for the speed of the train stage.

    python -m benchmarks.bare_loop [--keep-freed-memory]

Forward, loss, backward and AdamW on the batches of epoch 0, without tracker, ledger, checkpoints or
validation. Run it after the train stage; it prints the seconds of each epoch as JSON. With
`--keep-freed-memory` it keeps the memory that a step frees, as the stage does.
"""

import argparse
import json
import time

import torch

from mlops.determinism import make_deterministic
from mlops.files.checkpoint_file import load_checkpoint
from mlops.params import section_as
from mlops.processes.group import ProcessGroup
from stages.params import read_params
from stages.paths import Cell
from stages.train import load_clips
from video.learning.building import build_learner
from video.learning.losses import class_weights
from video.learning.memory import keep_freed_memory
from video.learning.optimizer_config import OptimizerConfig

CELL = Cell(model="small3d", fold=0, seed=0)


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--keep-freed-memory", action="store_true")
    if arguments.parse_args().keep_freed_memory:
        keep_freed_memory()
    params = read_params()
    make_deterministic(0, num_threads=params.train.num_threads)
    clips = load_clips(params, CELL, near_duplicate_distance=0.0)
    learner = build_learner(
        CELL.model,
        load_checkpoint(CELL.initial_weights),
        section_as(params.train, OptimizerConfig),
        clips,
        class_weights=params.train.class_weights,
        sync_batch_norm=False,
        device=torch.device("cpu"),
        collective=ProcessGroup(),
    )
    model, normalize = learner.model, learner.normalize
    loss_of = torch.nn.CrossEntropyLoss(class_weights(clips.train.targets, len(clips.labels)))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=params.train.learning_rate, weight_decay=params.train.weight_decay
    )
    order = clips.order(params.train.sampling, seed=CELL.seed, epoch=0)
    batches = [
        (torch.from_numpy(batch.clips.copy()), torch.from_numpy(batch.labels.copy()))
        for batch in clips.train.batches(order, params.train.batch_size)
    ]
    model.train()
    seconds = []
    for _ in range(params.train.epochs):
        began = time.monotonic()
        for images, labels in batches:
            loss = loss_of(model(normalize(images)), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            loss.item()
        seconds.append(time.monotonic() - began)
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
