"""Parity of an exported model with the one it was made of, on the same clips."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from video.export.formats import Run

MAX_DIFFERENCE = 1e-4  # of a probability
BATCH_SIZES = (1, 3)  # so that the batch is dynamic


def largest_difference(
    run: Run,
    clips: NDArray[np.uint8],
    expected: NDArray[np.float64],
    progress: Callable[[Sequence[slice]], Iterable[slice]] = iter,
) -> float:
    """Return the largest difference of a probability, over batches of each of BATCH_SIZES.

    It is not a number, or infinite, if a probability is.
    """
    batches = [
        slice(start, start + size) for size in BATCH_SIZES for start in range(0, len(clips), size)
    ]
    return float(
        np.max([np.abs(run(clips[part]) - expected[part]).max() for part in progress(batches)])
    )
