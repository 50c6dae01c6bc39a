"""Initial weights of a model and a seed, for every fold."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mlops.determinism import derive_seed, make_deterministic
from mlops.errors import PipelineError
from mlops.files.checkpoint_file import save_checkpoint
from mlops.files.tables import listed
from mlops.inputs import StageInputs
from mlops.params import section_as
from mlops.stage import parse_options, run_stage
from stages.params import read_params
from stages.paths import initial_weights
from video.clips.frames import ClipRecipe
from video.models.classifiers import (
    UnsuitableShapeError,
    adopt_weights,
    build_model,
    download_pretrained,
    pretrained_url,
)
from video.models.registry import MODULES
from video.models.shape import ModelShape


def main(inputs: StageInputs) -> None:
    options = parse_options(__doc__, model=str, seed=int)
    params = read_params()
    shape = ModelShape(
        num_classes=len(params.data.labels),
        frames=params.clips.frames,
        height=params.clips.height,
        width=params.clips.width,
        dropout=params.init_model.dropout,
    )
    make_deterministic(derive_seed(options.seed, "init_model", options.model), num_threads=1)
    model = build(options.model, shape)
    if params.init_model.weights != "random":
        adopt(model, read_weights(options.model, params.init_model.weights))
    inputs.check()
    path = initial_weights(options.model, options.seed)
    document = {
        "model": model.state_dict(),
        "architecture": options.model,
        "labels": params.data.labels,
        "shape": vars(shape),
        "clips": section_as(params.clips, ClipRecipe).in_effect(),
    }
    save_checkpoint(path, document)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"init_model: {options.model} seed {options.seed}, {num_parameters:,} parameters, "
        f"{params.init_model.weights}"
    )


def build(model_name: str, shape: ModelShape) -> nn.Module:
    if model_name not in MODULES:
        raise PipelineError(
            f"--model: expected one of {', '.join(MODULES)}, got '{model_name}'; choose one"
        )
    try:
        return build_model(model_name, shape)
    except UnsuitableShapeError as error:
        raise PipelineError(f"params.yaml: clips: {error}; change clips, or models") from None


def read_weights(model_name: str, source: str) -> Mapping[str, Any]:
    """Read a state dict from torchvision or a local file, which may be a checkpoint."""
    if source == "kinetics400":
        return read_kinetics_weights(model_name)
    path = Path(source)
    if not path.is_file():
        found = "which is no file" if path.exists() else "which does not exist"
        raise PipelineError(
            f"init_model.weights: expected random, kinetics400 or a file, got '{source}', {found}; "
            "correct the path"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError):
        # torch's own message advises to load it all the same, and so to run its code.
        raise PipelineError(
            f"{path}: expected tensors saved by torch.save, got a file that does not load as such; "
            "save the model's state_dict() again"
        ) from None
    weights = state.get("model", state) if isinstance(state, dict) else None
    if not isinstance(weights, dict):
        raise PipelineError(
            f"{path}: expected a state dict, got {type(state).__name__}; save the model's "
            "state_dict()"
        )
    return {name: value for name, value in weights.items() if isinstance(value, torch.Tensor)}


def read_kinetics_weights(model_name: str) -> Mapping[str, Any]:
    url = pretrained_url(model_name)
    if url is None:
        raise PipelineError(
            f"init_model.weights: expected random or a file for {model_name}, got kinetics400, "
            "which it has never been trained on; change init_model.weights, or models"
        )
    try:
        return download_pretrained(model_name)
    except OSError as error:
        raise PipelineError(
            f"init_model.weights: no network to download kinetics400 for {model_name} ({error}); "
            f"get {url} on another machine, put the file below data/, and set init_model.weights "
            "to its path"
        ) from None


def adopt(model: nn.Module, weights: Mapping[str, Any]) -> None:
    left = adopt_weights(model, weights)
    total = len(model.state_dict())
    if len(left) == total:
        raise PipelineError(
            "init_model.weights: expected weights of this model, got a file of which no entry "
            f"fits; its first entry is {next(iter(weights), '(none)')!r}"
        )
    print(f"init_model: {total - len(left)} of {total} tensors adopted, drawn: {listed(left)}")


if __name__ == "__main__":
    run_stage("init_model", main)
