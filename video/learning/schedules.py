"""Learning rate schedules as functions of the step, without state."""

import math
from dataclasses import dataclass
from typing import Literal

ScheduleName = Literal["constant", "cosine", "step"]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A learning rate that decreases from its peak, after a linear warm-up."""

    name: ScheduleName
    peak: float
    warmup_steps: int
    num_steps: int  # total; for cosine
    drop_steps: int  # between two drops; for step
    drop_factor: float  # for step

    def rate(self, step: int) -> float:
        """Return the learning rate of step `step`, from 0; cosine reaches 0 after the last step.

        In warm-up, step 0 has 1 / `warmup_steps` of the peak, and each step as much more.
        """
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        if self.name == "cosine":
            done = (step - self.warmup_steps) / max(1, self.num_steps - self.warmup_steps)
            return self.peak * (1.0 + math.cos(math.pi * min(done, 1.0))) / 2.0
        if self.name == "step":
            return self.peak * self.drop_factor ** (step // self.drop_steps)
        return self.peak


def first_candidate(name: ScheduleName, epochs: int) -> int:
    """Return the first epoch, from 0, that a validation score may choose.

    With a schedule that ends, it is in the second half: while the learning rate is high, the scores
    of epochs swing, and the best of them is luck (docs/defending_a_score.md has the figures).
    """
    return epochs // 2 if depends_on_epochs(name) else 0


def depends_on_epochs(name: ScheduleName) -> bool:
    """Return whether another number of epochs changes the learning rate of earlier steps."""
    return name == "cosine"
