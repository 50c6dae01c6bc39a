"""Optimizer steps on a model; the loop over the batches is the caller's."""

import itertools
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from video.clips.loading import Batch
from video.learning.averaging import MovingAverage
from video.learning.collective import Collective, SingleProcess
from video.learning.losses import WeightedCrossEntropy
from video.learning.memory import OutOfMemory, StepStart, TooLittleMemoryError, is_out_of_memory
from video.learning.optimizer_config import OptimizerConfig
from video.learning.predict import on_device, predict


class NonFiniteLossError(ValueError):
    """The loss or its gradient is NaN or infinite; the state is that before the batch."""


class UnsuitableOptionError(ValueError):
    """This machine does not support an option of params.yaml."""


class Learner:
    """Optimizer steps (AdamW) on whole batches, with the state that they depend on.

    Gradients are accumulated over micro-batches of about `micro_batch` clips: sums of the losses,
    divided by the class weights of the whole batch. The step is that of the whole batch, up to
    rounding; but batch normalization uses the statistics of each micro-batch, and dropout draws for
    each micro-batch.

    If a step runs out of memory, the micro-batches are halved, the step is repeated, and `events`
    gets an entry, which the caller may print and remove. The smaller size is kept.

    Each of several ranks takes its shard of every batch, and the gradients are all-reduced once, at
    the end, so that a rank can repeat its part of a step without the others. Batch normalization
    sees one rank's shard at a time, unless the model was made to share its statistics; its running
    statistics are those of rank 0.

    Args:
        model: on `device`, like `normalize`; its names in `state_dict` are the model's own.
        head: the modules of `model` that learn while the rest is frozen.
        loss: with one weight per class.
        num_batches: number of batches per epoch.
        collective: the ranks that train the same model, all with equal weights.

    Raises:
        UnsuitableOptionError: this machine does not support the precision or compilation.
    """

    micro_batch: int
    """Clips per micro-batch, in a batch of `batch_size`; one more if a single clip is left over at
    the end of the data."""

    events: list[OutOfMemory]

    def __init__(
        self,
        model: nn.Module,
        normalize: nn.Module,
        options: OptimizerConfig,
        *,
        head: Sequence[nn.Module],
        loss: WeightedCrossEntropy,
        num_batches: int,
        device: torch.device,
        collective: Collective | None = None,
    ) -> None:
        _check_options(options, device)
        self._collective = collective or SingleProcess()
        self.model = model
        self.micro_batch = -(-options.batch_size // options.micro_batches)
        self.steps_done = 0  # less those that float16 has skipped
        self._num_skipped = 0  # of them in this epoch
        self.events = []
        self.epoch = 0
        self._options = options
        self._head = head
        self._loss = loss
        self.device = device
        self.normalize = normalize
        self._forward = _compiled(model, options.batch_size) if options.compile else model
        self._optimizer = torch.optim.AdamW(
            model.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
        )
        self._schedule = options.schedule_of(num_batches)
        self._scaler = torch.amp.GradScaler(device.type, enabled=options.precision == "float16")
        self._average = MovingAverage(model, options.ema_decay) if options.ema_decay else None
        self._step_start = StepStart(model, device)
        norms = [part for part in model.modules() if isinstance(part, _BatchNorm)]
        self._shares_statistics = self._collective.size > 1 and any(
            isinstance(part, nn.SyncBatchNorm) for part in norms
        )
        # Batch normalization has no variance of one value.
        self._min_clips = 2 if norms and not self._shares_statistics else 1
        self.start_epoch(0)

    @property
    def evaluated(self) -> nn.Module:
        """The model for validation and export: the moving average if there is one."""
        return self._average.model if self._average else self.model

    def evaluated_weights(self) -> dict[str, torch.Tensor]:
        """Return a copy of the state dict of `evaluated`, on the CPU."""
        weights = self.evaluated.state_dict().items()
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in weights}

    @property
    def epoch_metrics(self) -> dict[str, float]:
        """Return metrics of the steps of this epoch.

        The learning rate of the last one, and with float16 the scale of the loss after it and the
        number of steps that were skipped.
        """
        metrics = {"learning_rate": float(self._optimizer.param_groups[0]["lr"])}
        if self._scaler.is_enabled():
            metrics |= {"loss_scale": self._scaler.get_scale(), "skipped_steps": self._num_skipped}
        return metrics

    def start_epoch(self, epoch: int) -> None:
        """Set the training mode of epoch `epoch`, also after a validation.

        Frozen modules have no gradients and are in eval mode, so that their running statistics do
        not change and their dropout is off.
        """
        if epoch != self.epoch:
            self.epoch, self._num_skipped = epoch, 0
        frozen = epoch < self._options.frozen_epochs
        self.model.train(not frozen).requires_grad_(not frozen)
        for part in self._head:
            part.train().requires_grad_(True)

    def share(self, num_clips: int) -> slice:
        """Return this rank's shard of a batch of `num_clips`; empty if there are too few clips."""
        parts = self._num_shares(num_clips)
        rank = min(self._collective.rank, parts)
        return slice(num_clips * rank // parts, num_clips * min(rank + 1, parts) // parts)

    def broadcast_statistics(self) -> None:
        """Broadcast the running statistics of rank 0, which validation uses."""
        models = [self.model, *([self._average.model] if self._average else [])]
        self._collective.broadcast_([buffer for model in models for buffer in model.buffers()])

    def predict(self, batches: Iterable[Batch]) -> NDArray[np.float64]:
        """Return the probabilities of shape (clips, classes) that `evaluated` gives."""
        return predict(self.evaluated, self.normalize, batches, self.device)

    def step(self, batch: Batch) -> float:
        """Take one optimizer step; return the mean loss of the batch before it.

        Errors of `Collective` leave the state unchanged. Raises `NonFiniteLossError` before the
        optimizer has used a NaN or infinite loss, and `TooLittleMemoryError` if no smaller
        micro-batch is left to try. With float16, an infinite gradient of a finite loss is no error:
        the step is skipped and the scale of the loss halved; schedule and average stay where they
        are.
        """
        self._step_start.save()
        loss = self._gradients(batch)
        try:
            loss = self._all_reduced(loss)
            if not np.isfinite(loss):
                raise NonFiniteLossError(f"the loss is {loss}")
            self._clip()
        except Exception as error:
            self._rewind()
            if is_out_of_memory(error):
                raise TooLittleMemoryError(
                    "the sum of the gradients over the processes: expected memory for it, got "
                    f"none ({_first_line(error)}); raise train.micro_batches, or take a smaller "
                    "model or a machine with more memory"
                ) from None
            raise
        for group in self._optimizer.param_groups:
            group["lr"] = self._schedule.rate(self.steps_done)
        scale = self._scaler.get_scale()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._scaler.get_scale() < scale:
            self._skip(scale)
            return loss
        self.steps_done += 1
        if self._average:
            self._average.update(self.model, self.steps_done)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain types. The tensors are in use: save or copy before a step."""
        return {
            "model": self.model.state_dict(),
            "average": self._average.model.state_dict() if self._average else None,
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "steps_done": self.steps_done,
            "num_skipped": self._num_skipped,
            "epoch": self.epoch,
            "micro_batch": self.micro_batch,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of a learner with the same options, bit for bit.

        Torch's generators are not part of it: restore them, too.
        """
        self.model.load_state_dict(state["model"])
        if self._average:
            self._average.model.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        self.steps_done = state["steps_done"]
        self.micro_batch = state["micro_batch"]
        self.start_epoch(state["epoch"])
        self._num_skipped = state["num_skipped"]

    def _gradients(self, batch: Batch) -> float:
        """Compute the batch's gradient into the parameters; return its mean loss."""
        while True:
            try:
                return self._accumulate(batch)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = _first_line(error)
            # Outside of `except`, where the traceback would keep the tensors of the step alive.
            self._rewind()
            if self._shares_statistics:
                raise TooLittleMemoryError(
                    f"a step with {self.micro_batch} clips at once: expected memory for it, got "
                    f"none ({reason}); with train.sync_batch_norm no process can begin anew by "
                    "itself: raise train.micro_batches"
                )
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self._halve_micro_batch(len(batch.clips), reason)

    def _accumulate(self, batch: Batch) -> float:
        total_weight = self._loss.total_weight(batch.labels)
        labels = batch.labels[batch.share]
        losses: list[torch.Tensor] = []
        for part in self._micro_batches(len(labels), len(batch.labels)):
            clips = self.normalize(on_device(batch.clips[part], self.device))
            targets = on_device(self._loss.targets(labels[part]), self.device)
            with self._precision():
                logits = self._forward(clips)
            loss = self._loss.sum(logits, targets) / total_weight
            if not losses:
                # Not before the forward pass: without the gradients too, the heap would be returned
                # to the system after each step, and faulted in again page by page.
                self._optimizer.zero_grad(set_to_none=True)
            self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        if not losses:  # no share of a small batch
            self._optimizer.zero_grad(set_to_none=True)
            return 0.0
        # Read after the backward pass: one synchronization per step, when no GPU waits for work.
        return torch.stack(losses).sum().item()

    def _all_reduced(self, loss: float) -> float:
        """All-reduce the gradients, and return the all-reduced loss.

        All ranks continue with the smallest micro-batch of any, so that their states stay equal.
        """
        rank, size = self._collective.rank, self._collective.size
        if size == 1:
            return loss
        # The loss, followed by the micro-batch of each rank.
        own = [float(self.micro_batch if number == rank else 0) for number in range(size)]
        reduced = torch.tensor([loss, *own], dtype=torch.float64, device=self.device)
        learning = [p for p in self.model.parameters() if p.requires_grad]
        for parameter in learning:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self._collective.all_reduce_([reduced, *(p.grad for p in learning if p.grad is not None)])
        values: list[float] = reduced.tolist()
        self.micro_batch = int(min(values[1:]))
        return values[0]

    def _num_shares(self, num_clips: int) -> int:
        return max(1, min(self._collective.size, num_clips // self._min_clips))

    def _micro_batches(self, num_clips: int, num_whole: int) -> list[slice]:
        """Cut this rank's shard into micro-batches of about equal size.

        None has fewer clips than the model takes; the number is that of the other ranks, if the
        shards allow it.
        """
        if not num_clips:
            return []
        largest = -(-num_whole // self._num_shares(num_whole))
        extra = num_whole == self._options.batch_size + 1
        count = -(-(largest - extra) // self.micro_batch)
        count = max(1, min(count, num_clips // self._min_clips))
        cuts = [num_clips * i // count for i in range(count + 1)]
        return [slice(start, end) for start, end in itertools.pairwise(cuts)]

    def _precision(self) -> AbstractContextManager[Any]:
        if self._options.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, getattr(torch, self._options.precision))

    def _clip(self) -> None:
        """Scale the gradient down to `clip_norm`, if there is one; raise if it is not finite."""
        if self._scaler.is_enabled():
            # The scaler itself skips a step with an infinite gradient.
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

    def _skip(self, scale: float) -> None:
        """Count a step that the scaler has skipped; raise if no lower scale would help."""
        if scale <= 1.0:
            self._rewind()
            raise NonFiniteLossError("the gradient is not finite, at a scale of the loss of 1 too,")
        self._num_skipped += 1

    def _rewind(self) -> None:
        """Restore the state of the start of the step."""
        self._optimizer.zero_grad(set_to_none=True)
        self._step_start.restore()

    def _halve_micro_batch(self, num_clips: int, reason: str) -> None:
        tried = min(self.micro_batch, num_clips)
        smaller = max(tried // 2, self._min_clips)
        if smaller >= tried:
            raise TooLittleMemoryError(
                f"a step with {tried} clips at once, of which the model needs {self._min_clips}: "
                f"expected memory for it, got none ({reason}); take smaller clips, a smaller "
                "model, or a machine with more memory"
            )
        self.micro_batch = smaller
        self.events.append(
            OutOfMemory(
                step=self.steps_done, micro_batch=tried, next_micro_batch=smaller, reason=reason
            )
        )


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


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


def _compiled(model: nn.Module, batch_size: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Compile one graph per shape, so that none depends on earlier shapes.

    A resumed training has seen others. For the same reason none may run without a graph, as torch
    lets them from the ninth on, without an error.
    """
    from torch._dynamo import config  # takes a second
    from torch._dynamo.exc import FailOnRecompileLimitHit

    # Makes the setting known to the compiler as well.
    torch.use_deterministic_algorithms(torch.are_deterministic_algorithms_enabled())
    limit = 2 * (batch_size + 1)  # parts of every size, of a frozen model and of the whole
    config.recompile_limit = max(config.recompile_limit, limit)
    config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, limit)
    config.fail_on_recompile_limit_hit = True
    compiled = torch.compile(model, dynamic=False)

    def forward(clips: torch.Tensor) -> torch.Tensor:
        try:
            logits: torch.Tensor = compiled(clips)
        except FailOnRecompileLimitHit:
            raise UnsuitableOptionError(
                f"train.compile: expected at most {config.recompile_limit} graphs of this model, "
                "one for each number of clips, got more; write false"
            ) from None
        return logits

    return forward
