"""Configuration of a learner: optimizer, precision, schedule and regularization."""

from dataclasses import dataclass
from typing import Literal

from video.learning.schedules import Schedule, ScheduleName

Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The values of params.yaml by these names; 0 switches an optional feature off."""

    epochs: int
    batch_size: int  # clips
    micro_batches: int  # per batch
    precision: Precision  # of the forward pass; weights are always float32
    compile: bool
    learning_rate: float  # the schedule's peak
    schedule: ScheduleName
    step_epochs: int
    step_factor: float
    warmup_steps: int
    weight_decay: float
    clip_norm: float  # max norm of all gradients together
    ema_decay: float
    frozen_epochs: int  # the first ones, in which only the head learns
    label_smoothing: float  # share

    def schedule_of(self, num_batches: int) -> Schedule:
        """Return the learning rate schedule for epochs of `num_batches` batches."""
        return Schedule(
            name=self.schedule,
            peak=self.learning_rate,
            warmup_steps=self.warmup_steps,
            num_steps=self.epochs * num_batches,
            drop_steps=self.step_epochs * num_batches,
            drop_factor=self.step_factor,
        )
