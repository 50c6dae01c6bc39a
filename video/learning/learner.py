"""A model and all that fits its weights, a step at a time. The loop is the caller's."""

import itertools
import os
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from video.clips.loading import Batch
from video.learning.averaging import MovingAverage
from video.learning.collective import Collective, SingleProcess
from video.learning.losses import WeightedCrossEntropy
from video.learning.memory import OutOfMemory, StepStart, TooLittleMemoryError, is_out_of_memory
from video.learning.optimizer_config import OptimizerConfig
from video.learning.predict import on_device


class NonFiniteLossError(ValueError):
    """The loss or its gradient is NaN or infinite; all is as it was before this batch."""


class UnsuitableOptionError(ValueError):
    """This machine cannot train as params.yaml says."""


class Learner:
    """Takes optimizer steps (AdamW) on whole batches; what they need of a run's past is its state.

    A batch goes through the model in parts of about `micro_batch` clips, one after another, whose
    gradients add up: sums of the losses, divided by the class weights of the whole batch. The step
    is that of the whole batch, up to rounding; except that batch normalisation normalises by the
    statistics of each part, and dropout draws a part at a time.

    Where a step runs out of memory, the parts become half as large, the step begins anew, and
    `events` gets an entry, which the caller may print and remove. The smaller parts are kept.

    Of several processes each takes its share of every batch, and the gradients are added up once
    they are whole, so that a process can begin its part of a step anew without the others. Batch
    normalisation sees one process's share at a time, unless the model was made to share its
    statistics; its running statistics are those of the first process.

    Args:
        model: on `device`, as is `normalise`; its names in `state_dict` are the model's own.
        head: the modules of `model` that learn while the rest is frozen.
        loss: with a weight a class.
        num_batches: of an epoch.
        peers: the processes that train the same model; all with equal weights.

    Raises:
        UnsuitableOptionError: the precision, or compilation, is not to be had on this machine.
    """

    micro_batch: int
    """Clips that go through the model at once, in a batch of `batch_size`; a single clip left over
    at the end of the data makes it one more."""

    events: list[OutOfMemory]

    def __init__(
        self,
        model: nn.Module,
        normalise: nn.Module,
        options: OptimizerConfig,
        *,
        head: Sequence[nn.Module],
        loss: WeightedCrossEntropy,
        num_batches: int,
        device: torch.device,
        peers: Collective | None = None,
    ) -> None:
        _check_options(options, device)
        self._peers = peers or SingleProcess()
        self.model = model
        self.micro_batch = -(-options.batch_size // options.micro_batches)
        self.steps_done = 0
        self.events = []
        self._epoch = 0
        self._options = options
        self._head = head
        self._loss = loss
        self.device = device
        self.normalise = normalise
        # A graph for every shape, so that none depends on the shapes that came before: a resumed
        # training has seen others.
        if options.compile:
            # Tells the compiler, too, what holds for all else.
            torch.use_deterministic_algorithms(torch.are_deterministic_algorithms_enabled())
        self._forward = torch.compile(model, dynamic=False) if options.compile else model
        self._optimizer = torch.optim.AdamW(
            model.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
        )
        self._schedule = options.schedule_of(num_batches)
        self._scaler = torch.amp.GradScaler(device.type, enabled=options.precision == "float16")
        self._average = MovingAverage(model, options.ema_decay) if options.ema_decay else None
        self._step_start = StepStart(model, device)
        norms = [part for part in model.modules() if isinstance(part, _BatchNorm)]
        self._shares_statistics = self._peers.size > 1 and any(
            isinstance(part, nn.SyncBatchNorm) for part in norms
        )
        # Batch normalisation has no variance of one value.
        self._fewest = 2 if norms and not self._shares_statistics else 1
        self.start_epoch(0)

    @property
    def evaluated(self) -> nn.Module:
        """What validation and export use: the moving average if there is one, else the model."""
        return self._average.model if self._average else self.model

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return self._schedule.rate(self.steps_done)

    def start_epoch(self, epoch: int) -> None:
        """Make ready for training in epoch `epoch`, after a validation too.

        What is frozen has no gradients and is in eval mode, so that its running statistics stay
        as they are and its dropout is off.
        """
        self._epoch = epoch
        frozen = epoch < self._options.frozen_epochs
        self.model.train(not frozen).requires_grad_(not frozen)
        for part in self._head:
            part.train().requires_grad_(True)

    def share(self, num_clips: int) -> slice:
        """Which of a batch of so many clips this process takes: none, where there are too few."""
        parts = self._num_shares(num_clips)
        rank = min(self._peers.rank, parts)
        return slice(num_clips * rank // parts, num_clips * min(rank + 1, parts) // parts)

    def broadcast_statistics(self) -> None:
        """Give all processes the first one's running statistics, which validation uses."""
        models = [self.model, *([self._average.model] if self._average else [])]
        self._peers.broadcast_([buffer for model in models for buffer in model.buffers()])

    def step(self, batch: Batch) -> float:
        """One optimizer step; returns the mean loss of the batch before it.

        What `Collective` raises leaves all as it was before. Raises `NonFiniteLossError` before the
        optimizer has used a NaN or infinite loss, and `TooLittleMemoryError` where no smaller part
        is left to try. With float16, an infinite
        gradient of a finite loss makes no error: the step is left out and the loss's scale halved.
        """
        self._step_start.remember()
        loss = self._gradients(batch)
        try:
            loss = self._summed(loss)
            if not np.isfinite(loss):
                raise NonFiniteLossError(f"the loss is {loss}")
            self._clip()
        except Exception:
            self._forget()
            raise
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self.steps_done += 1
        if self._average:
            self._average.update(self.model, self.steps_done)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain types. The tensors are those in use: save or copy before a step."""
        return {
            "model": self.model.state_dict(),
            "average": self._average.model.state_dict() if self._average else None,
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "steps_done": self.steps_done,
            "epoch": self._epoch,
            "micro_batch": self.micro_batch,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on as the learner of the same options whose state it is, bit for bit.

        Torch's generators are no part of it: put them back, too.
        """
        self.model.load_state_dict(state["model"])
        if self._average:
            self._average.model.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        self.steps_done = state["steps_done"]
        self.micro_batch = state["micro_batch"]
        self.start_epoch(state["epoch"])

    def _gradients(self, batch: Batch) -> float:
        """Leave the batch's gradient in the parameters; returns its mean loss."""
        while True:
            try:
                return self._accumulate(batch)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = str(error).partition("\n")[0]
            # Here the error is gone, which held all that the step had made.
            self._forget()
            if self._shares_statistics:
                raise TooLittleMemoryError(
                    f"a step with {self.micro_batch} clips at once: expected memory for it, got "
                    f"none ({reason}); with train.sync_batch_norm no process can begin anew by "
                    "itself: raise train.micro_batches"
                )
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self._take_smaller_parts(len(batch.clips), reason)

    def _accumulate(self, batch: Batch) -> float:
        total_weight = self._loss.total_weight(batch.labels)
        labels = batch.labels[batch.share]
        losses: list[torch.Tensor] = []
        for part in self._parts(len(labels), len(batch.labels)):
            clips = self.normalise(on_device(batch.clips[part], self.device))
            targets = on_device(self._loss.targets(labels[part]), self.device)
            with self._precision():
                logits = self._forward(clips)
            loss = self._loss.sum(logits, targets) / total_weight
            if not losses:
                # Not before the forward pass: with the gradients gone as well, the heap would be
                # given back to the system after each step, and taken again page by page.
                self._optimizer.zero_grad(set_to_none=True)
            self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        if not losses:  # no share of a small batch
            self._optimizer.zero_grad(set_to_none=True)
            return 0.0
        # Read after the backward pass: once a step, and never while a GPU waits for work.
        return torch.stack(losses).sum().item()

    def _summed(self, loss: float) -> float:
        """The gradients and the loss of the whole batch, where processes have shares of it.

        All go on with the parts of the one that has the least memory: the state of one of them is
        then that of all.
        """
        rank, size = self._peers.rank, self._peers.size
        if size == 1:
            return loss
        # The loss, and behind it each process's number of clips at once.
        own = [float(self.micro_batch if number == rank else 0) for number in range(size)]
        told = torch.tensor([loss, *own], dtype=torch.float64, device=self.device)
        learning = [p for p in self.model.parameters() if p.requires_grad]
        for parameter in learning:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self._peers.all_reduce_([told, *(p.grad for p in learning if p.grad is not None)])
        values: list[float] = told.tolist()
        self.micro_batch = int(min(values[1:]))
        return values[0]

    def _num_shares(self, num_clips: int) -> int:
        return max(1, min(self._peers.size, num_clips // self._fewest))

    def _parts(self, num_clips: int, num_whole: int) -> list[slice]:
        """Parts of about equal size of this process's share; of no fewer clips than the model
        takes, and, where the shares allow it, as many in every process."""
        if not num_clips:
            return []
        largest = -(-num_whole // self._num_shares(num_whole))
        extra = num_whole == self._options.batch_size + 1
        count = -(-(largest - extra) // self.micro_batch)
        count = max(1, min(count, num_clips // self._fewest))
        cuts = [num_clips * i // count for i in range(count + 1)]
        return [slice(start, end) for start, end in itertools.pairwise(cuts)]

    def _precision(self) -> AbstractContextManager[Any]:
        if self._options.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, getattr(torch, self._options.precision))

    def _clip(self) -> None:
        """Scale the gradient down to `clip_norm`, if there is one; raise if it is not finite."""
        if self._scaler.is_enabled():
            # A scaler leaves a step with an infinite gradient out by itself.
            if self._options.clip_norm:
                self._scaler.unscale_(self._optimizer)
                nn.utils.clip_grad_norm_(self.model.parameters(), self._options.clip_norm)
            return
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if not norm.isfinite():
            raise NonFiniteLossError(f"the norm of the gradient is {norm.item()}")
        if self._options.clip_norm:
            nn.utils.clip_grads_with_norm_(self.model.parameters(), self._options.clip_norm, norm)

    def _forget(self) -> None:
        """Back to the step's start."""
        self._optimizer.zero_grad(set_to_none=True)
        self._step_start.restore()

    def _take_smaller_parts(self, num_clips: int, reason: str) -> None:
        tried = min(self.micro_batch, num_clips)
        smaller = max(tried // 2, self._fewest)
        if smaller >= tried:
            raise TooLittleMemoryError(
                f"a step with {tried} clips at once, of which the model needs {self._fewest}: "
                f"expected memory for it, got none ({reason}); take smaller clips, a smaller "
                "model, or a machine with more memory"
            )
        self.micro_batch = smaller
        self.events.append(
            OutOfMemory(
                step=self.steps_done, micro_batch=tried, next_micro_batch=smaller, reason=reason
            )
        )


def _check_options(options: OptimizerConfig, device: torch.device) -> None:
    if options.precision == "float16" and device.type != "cuda":
        raise UnsuitableOptionError(
            f"train.precision: expected float32 or bfloat16 on the device {device.type}, got "
            "float16, which only GPUs train with; write float32"
        )
    compiler = os.environ.get("CXX", "g++")
    if options.compile and device.type == "cpu" and not shutil.which(compiler):
        raise UnsuitableOptionError(
            f"train.compile: expected a C++ compiler named {compiler}, got none; install one, name "
            "it in the environment variable CXX, or write false"
        )


def evaluated_weights(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Of a learner's state, the weights that `Learner.evaluated` has."""
    weights: dict[str, torch.Tensor] = state["average"] or state["model"]
    return weights
