"""Initial weights of a model and a seed, for every fold."""

import json
import pickle
import struct
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from mlops.determinism import derive_seed, make_deterministic
from mlops.errors import PipelineError
from mlops.files.checkpoint_file import load_checkpoint, save_checkpoint
from mlops.files.tables import listed
from mlops.inputs import StageInputs
from mlops.params import section_as
from mlops.stage import parse_options, run_stage
from stages.params import InitModel, read_params
from stages.paths import initial_weights
from video.clips.frames import DECODING_VERSION, ClipRecipe
from video.models.classifiers import UnsuitableShapeError, build_model, normalization
from video.models.registry import MODULES
from video.models.shape import ModelShape
from video.models.weights import (
    GivenWeights,
    UnusableWeightsError,
    adopt_weights,
    in_order,
    kinetics_weights,
)

# What torch raises for a file that is none of its archives, or for a part of one.
UNREADABLE = (
    pickle.UnpicklingError,
    struct.error,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)

# Keys under which checkpoints hold the state dict of their model, beside other things.
HOLDERS = ("model", "state_dict")


def main(inputs: StageInputs) -> None:
    options = parse_options(__doc__, model=str, seed=int)
    params = read_params()
    source = params.init_model
    shape = ModelShape(
        num_classes=len(params.data.labels),
        frames=params.clips.frames,
        height=params.clips.height,
        width=params.clips.width,
        dropout=source.dropout,
    )
    make_deterministic(derive_seed(options.seed, "init_model", options.model), num_threads=1)
    model = build(options.model, shape)
    if source.weights != "random":
        given = read_weights(options.model, source)
        weights, said = in_order(given, params.data.labels, options.model, shape)
        adopt(model, weights, said)
    inputs.check()
    path = initial_weights(options.model, options.seed)
    document = {
        "model": model.state_dict(),
        "architecture": options.model,
        "labels": params.data.labels,
        "shape": vars(shape),
        "clips": section_as(params.clips, ClipRecipe).in_effect(),
        "decoding": DECODING_VERSION,
        "normalization": normalization(options.model),
    }
    save_checkpoint(path, document)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"init_model: {options.model} seed {options.seed}, {num_parameters:,} parameters, "
        f"{source.weights_file if source.weights == 'file' else source.weights}"
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


def read_weights(model_name: str, source: InitModel) -> GivenWeights:
    if source.weights == "kinetics400":
        return kinetics_weights(model_name)
    return read_file(Path(source.weights_file))


def read_file(path: Path) -> GivenWeights:
    """Read a state dict, or a checkpoint that holds one; no code of it is run."""
    if not path.is_file():
        found = (
            f"'{path}', which is no file" if path.exists() else f"'{path}', which does not exist"
        )
        raise PipelineError(
            f"init_model.weights_file: expected a file, got {found}; correct the path"
        )
    return read_safetensors(path) if path.suffix == ".safetensors" else read_archive(path)


def read_archive(path: Path) -> GivenWeights:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE:
        # torch's own message advises to load it all the same, and so to run its code.
        raise PipelineError(
            f"{path}: expected tensors saved by torch.save, or by safetensors in a file "
            "*.safetensors, got a file that does not load as such; save the model's state_dict() "
            "again"
        ) from None
    document = state if isinstance(state, dict) else {}
    if "format_version" in document:
        check_own(path)
    weights = next((document[key] for key in HOLDERS if key in document), state)
    if not isinstance(weights, dict):
        raise PipelineError(
            f"{path}: expected a state dict, got {type(weights).__name__}; save the model's "
            "state_dict()"
        )
    tensors = {name: value for name, value in weights.items() if isinstance(value, torch.Tensor)}
    return GivenWeights(tensors, known_labels(document.get("labels")))


def check_own(path: Path) -> None:
    """Compare a file of this repository with its checksum."""
    try:
        load_checkpoint(path)
    except PipelineError as error:
        found = str(error).rpartition("; ")[0]
        raise PipelineError(f"{found}; copy it again from where it comes") from None


def known_labels(found: object) -> list[str] | None:
    """Return the labels of a file, if they are a list: others keep other things by this name."""
    return [str(label) for label in found] if isinstance(found, list) else None


def read_safetensors(path: Path) -> GivenWeights:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise PipelineError(
            f"{path}: expected the package safetensors to read it, found none; run python -m pip "
            "install safetensors"
        ) from None
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            written = (file.metadata() or {}).get("labels", "")
    except SafetensorError as error:
        raise PipelineError(
            f"{path}: expected tensors saved by safetensors, got a file that does not load as such "
            f"({error}); copy it again from where it comes"
        ) from None
    labels = None
    with suppress(ValueError):  # JSON, where `commands export` wrote it
        labels = known_labels(json.loads(written))
    return GivenWeights(tensors, labels)


def adopt(model: nn.Module, weights: GivenWeights, said: str) -> None:
    """Load the weights that fit; print which do, and what was said of their labels."""
    left = adopt_weights(model, weights.tensors)
    total = len(model.state_dict())
    if len(left) == total:
        raise PipelineError(
            "init_model.weights_file: expected weights of this model, got a file of which no entry "
            f"fits; its first entry is {next(iter(weights.tensors), '(none)')!r}"
        )
    if said:
        print(f"init_model: weights: {said}")
    print(f"init_model: {total - len(left)} of {total} tensors adopted, drawn: {listed(left)}")


if __name__ == "__main__":
    run_stage("init_model", main, input_faults=(UnusableWeightsError,))
