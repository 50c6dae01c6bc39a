"""A step that does not fit into memory is taken in smaller parts, with the same result."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from video.learning.memory import is_out_of_memory

ROOT = Path(__file__).parents[2]

# Takes a step within so many megabytes more than the process has, then the same step with all the
# memory there is and the parts that had fitted, and compares them bit by bit.
SCRIPT = """
import json, resource, sys
from pathlib import Path
import numpy as np
import torch
from video.learning.learner import Learner
from video.clips.loading import Batch
from video.learning.losses import WeightedCrossEntropy
from video.learning.memory import TooLittleMemoryError
from video.models.shape import ModelShape
from video.models.classifiers import Normalize, build_model, head_of
from video.learning.optimizer_config import OptimizerConfig

SIDE, CLIPS = 128, 16
torch.set_num_threads(1)
# It takes memory without looking whether it got any: one run in ten ended by SIGSEGV.
torch.backends.mkldnn.enabled = False


def learner(micro_batches):
    torch.manual_seed(0)
    shape = ModelShape(num_classes=2, frames=8, height=SIDE, width=SIDE, dropout=0.5)
    model = build_model("small3d", shape)
    options = OptimizerConfig(
        epochs=1, batch_size=CLIPS, micro_batches=micro_batches, precision="float32",
        compile=False, learning_rate=0.01, schedule="constant", step_epochs=1, step_factor=0.1,
        warmup_steps=0, weight_decay=0.0, clip_norm=0.0, ema_decay=0.0, frozen_epochs=0,
        label_smoothing=0.0,
    )
    return Learner(
        model, Normalize("small3d"), options, head=head_of("small3d", model),
        loss=WeightedCrossEntropy(torch.ones(2), 0.0), num_batches=1, device=torch.device("cpu"),
    )


clips = np.random.default_rng(0).integers(0, 256, (CLIPS, 8, SIDE, SIDE, 3), dtype=np.uint8)
batch = Batch(clips=clips, labels=np.arange(CLIPS) % 2, rows=range(CLIPS))
small = Batch(clips=clips[:2], labels=batch.labels[:2], rows=range(2))
learner(1).step(small)  # whatever is loaded when first used
limited = learner(1)
before = [tensor.clone() for tensor in limited.model.state_dict().values()]

pages = int(Path("/proc/self/statm").read_text().split()[0])
used = pages * resource.getpagesize()
limit = used + int(float(sys.argv[1]) * 1e6)
resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
error, loss = None, None
try:
    loss = limited.step(batch)
    after = torch.get_rng_state()
except TooLittleMemoryError as caught:
    error = str(caught)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

state = list(limited.model.state_dict().values())
if error is None:
    reference = learner(CLIPS // limited.micro_batch)
    expected = list(reference.model.state_dict().values())
    same = reference.step(batch) == loss and torch.equal(torch.get_rng_state(), after)
else:
    expected, same = before, True
same = same and all(torch.equal(*pair) for pair in zip(state, expected, strict=True))
print(json.dumps({
    "error": error, "same": same, "micro_batch": limited.micro_batch,
    "tried": [event.micro_batch for event in limited.events],
    "next": [event.next_micro_batch for event in limited.events],
    "reasons": [event.reason for event in limited.events],
}))
"""


def within(megabytes: float) -> Any:
    output = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(megabytes)],
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=False,
    )
    assert output.returncode == 0, output.stderr
    return json.loads(output.stdout)


def test_a_batch_that_does_not_fit_is_taken_in_parts_with_their_result() -> None:
    found = within(350)

    assert found["same"]
    assert found["error"] is None
    assert 2 <= found["micro_batch"] < 16
    assert found["tried"] == [16, 8, 4][: len(found["tried"])]
    assert found["next"] == [tried // 2 for tried in found["tried"]]
    assert "allocate memory" in found["reasons"][0]


def test_where_two_clips_do_not_fit_the_weights_stay_and_the_message_says_what_to_do() -> None:
    found = within(10)

    assert found["same"]
    assert found["tried"] == [16, 8, 4]
    assert found["error"].startswith(
        "a step with 2 clips at once, of which the model needs 2: expected memory for it, got none "
    )
    assert found["error"].endswith(
        "take smaller clips, a smaller model, or a machine with more memory"
    )


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            True,
        ),
        (RuntimeError("not enough memory: you tried to allocate 8 bytes."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (MemoryError(), True),
        (RuntimeError("GET was unable to find an engine to execute this computation"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
    ids=str,
)
def test_an_error_of_the_allocator_is_told_from_others(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) == expected


STEPS = """
import resource, sys
import torch
from video.learning.memory import keep_freed_memory
torch.set_num_threads(1)
if sys.argv[1] == "kept":
    keep_freed_memory()
def step():
    # Larger than what glibc may come to keep by itself, 32 MB.
    parts = [torch.ones(12_000_000) for _ in range(3)]
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_memory_that_a_step_has_freed_is_there_for_the_next() -> None:
    faults = {
        how: int(
            subprocess.run(
                [sys.executable, "-c", STEPS, how],
                cwd=ROOT,
                check=True,
                text=True,
                capture_output=True,
            ).stdout
        )
        for how in ("given back", "kept")
    }
    # How many depends on the size of the system's pages, and on what else is short of memory.
    assert faults["kept"] < faults["given back"] / 2
