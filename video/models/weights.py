"""Weights from elsewhere: published ones, and how a model takes over those that fit it."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import nn

from video.models.classifiers import Weights, model_module
from video.models.shape import ModelShape


class UnusableWeightsError(ValueError):
    """Weights cannot be taken; the message says what to do."""


@dataclass(frozen=True)
class GivenWeights:
    """Tensors by the names of a state dict.

    labels: the classes, in the order of the outputs; None if nothing tells them.
    """

    tensors: Mapping[str, torch.Tensor]
    labels: Sequence[str] | None = None


def kinetics_weights(name: str) -> GivenWeights:
    """Return a model's published weights; raise `UnusableWeightsError` if it has none."""
    weights = model_module(name).published_weights(name)
    if weights is None:
        raise UnusableWeightsError(
            f"init_model.weights: expected random or a file for {name}, got kinetics400, which it "
            "has never been trained on; change init_model.weights, or models"
        )
    return published(weights)


def published(weights: Weights) -> GivenWeights:
    """Return published weights, of torch's cache or downloaded with a progress bar.

    Their file names end with the first digits of their sha256, which is compared in both cases.
    """
    path = Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(weights.url).path).name)
    by_hand = f"get {weights.url} on another machine and put {path.name} into {path.parent}"
    try:
        if path.exists():
            _check_hash(path)
        tensors = weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except OSError as error:
        raise UnusableWeightsError(
            f"init_model.weights: expected to download {path.name} for kinetics400, got no "
            f"network ({error}); {by_hand}"
        ) from None
    except RuntimeError as error:  # what torch raises for another hash
        raise UnusableWeightsError(
            f"init_model.weights: expected {weights.url} with the hash of its name, got: {error}; "
            f"run again, or {by_hand}"
        ) from None
    return GivenWeights(tensors, weights.meta["categories"])


def _check_hash(path: Path) -> None:
    promised = torch.hub.HASH_REGEX.search(path.name)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if promised and not digest.startswith(promised[1]):
        raise UnusableWeightsError(
            f"{path}: expected a sha256 that begins with {promised[1]}, as its name says, got "
            f"{digest[: len(promised[1])]}…; remove the file, and run again or copy it anew"
        )


def in_order(
    weights: GivenWeights, labels: Sequence[str], name: str, shape: ModelShape
) -> tuple[GivenWeights, str]:
    """Return the weights with their outputs in the order of `labels`, and what was done, in words.

    Outputs of other labels are left out, for a head that knows other classes by the same number
    would start with them exchanged.
    """
    tensors, rows = dict(weights.tensors), tensors_of_classes(name, shape)
    if weights.labels is None:
        fits = all(row in tensors and len(tensors[row]) == len(labels) for row in rows)
        said = "they name no labels: taken to be in the order of data.labels"
        return weights, said if fits else ""
    if list(weights.labels) == list(labels):
        return weights, ""
    order = [weights.labels.index(label) for label in labels if label in weights.labels]
    same = len(order) == len(labels) == len(weights.labels)
    for row in rows:
        value = tensors.pop(row, None)
        if same and value is not None:
            tensors[row] = value[order]
    known = ", ".join(weights.labels[:5]) + (", …" if len(weights.labels) > 5 else "")
    said = (
        f"their labels are {known}: the head's outputs are matched by name"
        if same
        else f"their labels are {known}, others than data.labels: the head is drawn anew"
    )
    return replace(weights, tensors=tensors, labels=labels), said


def tensors_of_classes(name: str, shape: ModelShape) -> list[str]:
    """Name the tensors with a row for each class: those that one more class makes longer."""
    with torch.random.fork_rng(devices=[]):
        own, longer = (
            model_module(name).build(name, replace(shape, num_classes=count)).state_dict()
            for count in (shape.num_classes, shape.num_classes + 1)
        )
    return [key for key in own if own[key].shape != longer[key].shape]


def adopt_weights(model: nn.Module, weights: Mapping[str, Any]) -> list[str]:
    """Load the entries of `weights` that fit by name and shape; return the names left as drawn.

    The head for another number of classes is left, and so is MViT's table of relative positions
    for another clip size.
    """
    own = model.state_dict()
    fitting = {
        name: value
        for name, value in weights.items()
        if name in own and own[name].shape == value.shape
    }
    model.load_state_dict(fitting, strict=False)
    return sorted(set(own) - set(fitting))
