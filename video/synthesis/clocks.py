"""The clock of a video's window: that of the video, or a tampered one."""

from collections.abc import Sequence
from itertools import pairwise

from video.synthesis.plan import PlannedVideo, Tampering
from video.synthesis.random_streams import RandomStream

# Holds and blocks are about as long as the time between two of eight frames of a clip.
HOLD_SEC = 0.5
BLOCK_SEC = 0.25
BACKWARD_SPEED = 3.0


def window_clock(planned: PlannedVideo, stream: RandomStream) -> list[float]:
    """Return the time of the window's clock at each frame, in seconds of the video.

    The tampered stretch is one interval of the duration, taken as a circle. Within it the clock
    covers the moments of that same interval, so that no moment is shown much more often than in an
    authentic video.
    """
    times_sec = [index / planned.fps for index in range(planned.num_frames)]
    if planned.tampering == "none":
        return times_sec
    duration_sec = planned.duration_sec
    length_sec = planned.recipe.tampered_time_share * duration_sec
    start_sec = stream.between(0, duration_sec)
    blocks = _draw_blocks(stream, planned.tampering, length_sec)
    clock: list[float] = []
    for time_sec in times_sec:
        elapsed_sec = (time_sec - start_sec) % duration_sec
        if elapsed_sec < length_sec:
            elapsed_sec = _tampered(planned.tampering, elapsed_sec, length_sec, blocks)
        clock.append((start_sec + elapsed_sec) % duration_sec)
    return clock


def _draw_blocks(stream: RandomStream, tampering: Tampering, length_sec: float) -> list[int]:
    """Draw the order in which blocks of equal length are shown."""
    block_sec = HOLD_SEC if tampering == "frozen" else BLOCK_SEC
    order = list(range(max(2, round(length_sec / block_sec))))
    if tampering != "repeated":
        return order
    # The order with the largest minimum jump, so that neighbors do not stay neighbors.
    orders = [stream.shuffled(order) for _ in range(32)]
    return max(orders, key=_smallest_jump)


def _smallest_jump(order: Sequence[int]) -> int:
    return min(abs(after - before) for before, after in pairwise(order))


def _tampered(
    tampering: Tampering, elapsed_sec: float, length_sec: float, blocks: list[int]
) -> float:
    """Return the moment, in [0, length_sec), shown `elapsed_sec` into the tampered stretch."""
    if tampering == "against":
        return (-BACKWARD_SPEED * elapsed_sec) % length_sec
    block_sec = length_sec / len(blocks)
    block = min(int(elapsed_sec / block_sec), len(blocks) - 1)
    if tampering == "frozen":
        return (block + 0.5) * block_sec
    return elapsed_sec + (blocks[block] - block) * block_sec
