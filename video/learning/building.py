"""Learner of a cell, built from its initial weights and its data."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from video.clips.packs import PackError
from video.learning.collective import Collective
from video.learning.learner import Learner, NonFiniteLossError, UnsuitableOptionError
from video.learning.memory import TooLittleMemoryError
from video.learning.optimizer_config import OptimizerConfig
from video.learning.training_data import TrainingClips
from video.models.backbone import head_alone
from video.models.classifiers import Normalize, build_model, head_of
from video.models.shape import ModelShape
from video.scoring.monitored import NonFinitePredictionsError
from video.splitting.leakage import LeakageError

# Faults that a user can correct, by their messages.
TRAINING_FAULTS = (
    LeakageError,
    NonFiniteLossError,
    NonFinitePredictionsError,
    PackError,
    TooLittleMemoryError,
    UnsuitableOptionError,
)


def build_learner(
    model_name: str,
    initial: Mapping[str, Any],
    options: OptimizerConfig,
    clips: TrainingClips,
    *,
    class_weights: bool,
    sync_batch_norm: bool,
    device: torch.device,
    collective: Collective,
) -> Learner:
    """Return a learner with the weights of `initial`, built for their shape.

    Of clips by their features it trains the head alone.

    Raises `UnsuitableOptionError` for more processes than this data allows.
    """
    model = build_model(model_name, ModelShape(**initial["shape"]))
    model.load_state_dict(initial["model"])
    batch_sizes = clips.batch_sizes(options.batch_size)
    if collective.size > len(clips.val):
        raise UnsuitableOptionError(
            f"runtime.num_processes: expected at most {len(clips.val)}, one process per clip of "
            f"validation, got {collective.size}; lower it"
        )
    if sync_batch_norm and collective.size > 1:
        _check_sync_batch_norm(batch_sizes, device, collective.size)
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    head = head_of(model_name, model)
    normalize: nn.Module = Normalize(model_name)
    if clips.are_features:
        model, normalize = head_alone(model_name, model), nn.Identity()
    return Learner(
        model.to(device),
        normalize.to(device),
        options,
        head=head,
        loss=clips.loss(balanced=class_weights, label_smoothing=options.label_smoothing),
        num_batches=len(batch_sizes),
        device=device,
        collective=collective,
    )


def _check_sync_batch_norm(batch_sizes: Sequence[int], device: torch.device, size: int) -> None:
    """Raise `UnsuitableOptionError` if batch normalization cannot span `size` processes."""
    if device.type == "cpu":
        raise UnsuitableOptionError(
            "train.sync_batch_norm: expected false on a CPU, where torch cannot do it, got true; "
            "write false, and a train.batch_size that leaves each process enough clips"
        )
    if min(batch_sizes) < size:
        raise UnsuitableOptionError(
            f"train.sync_batch_norm: expected batches of at least a clip for each of {size} "
            f"processes, got one of {min(batch_sizes)} at the end of an epoch; change "
            "train.batch_size"
        )
