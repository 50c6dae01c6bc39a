"""Formats of exported models: what writes a file of each, and what runs one."""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from video.models.classifiers import Normalize, build_model
from video.models.shape import ModelShape

# Described by texts alone, which each of the formats has a place for; values of other types are
# JSON. `model_name` and `model_shape` make the network again, if a file has its weights alone.
Metadata = Mapping[str, str]

# What torch raises for a model that it cannot trace, or an operator that a format lacks.
_FAULTS = (RuntimeError, ValueError, TypeError, AssertionError)

# From uint8 clips (batch, frames, height, width, 3) to probabilities (batch, classes).
Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

INPUT, OUTPUT = "clips", "probabilities"
METADATA_FILE = "metadata.json"  # in the archive of torch.export


class NotExportableError(ValueError):
    """A model cannot be written in a format."""


class Classifier(nn.Module):
    """Network from uint8 clips (batch, frames, height, width, 3) to float32 probabilities."""

    def __init__(self, network: nn.Module, normalize: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.normalize = normalize
        self.eval()

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(self.normalize(clips))
        return logits.softmax(1)


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format of files.

    packages: those that it takes beside torch, as they are imported.
    write: writes the file of a model for clips of a shape (frames, height, width).
    load: returns the model of a file.
    """

    suffix: str
    packages: Sequence[str]
    write: Callable[[Classifier, Sequence[int], Metadata, Path], None]
    load: Callable[[Path], Run]

    def export(
        self, model: Classifier, size: Sequence[int], metadata: Metadata, path: Path
    ) -> None:
        """Write a file; raise `NotExportableError` if the format cannot hold the model."""
        try:
            self.write(model, size, metadata, path)
        except _FAULTS as error:
            told = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            raise NotExportableError(told) from error

    @property
    def missing(self) -> list[str]:
        """Name the packages that are not installed."""
        return [name for name in self.packages if find_spec(name) is None]


def _write_onnx(model: Classifier, size: Sequence[int], metadata: Metadata, path: Path) -> None:
    program = torch.onnx.export(
        model,
        _example(size),
        dynamo=True,
        dynamic_shapes=_any_batch(),
        input_names=[INPUT],
        output_names=[OUTPUT],
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props.update(metadata)
    program.save(path, external_data=False)


def _load_onnx(path: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda clips: session.run([OUTPUT], {INPUT: clips})[0]


def _write_pt2(model: Classifier, size: Sequence[int], metadata: Metadata, path: Path) -> None:
    program = torch.export.export(model, _example(size), dynamic_shapes=_any_batch())
    buffer = io.BytesIO()  # a file's name would be in the archive
    torch.export.save(program, buffer, extra_files={METADATA_FILE: json.dumps(metadata)})
    path.write_bytes(buffer.getbuffer())


def _load_pt2(path: Path) -> Run:
    return _running(torch.export.load(path).module())


def _write_safetensors(
    model: Classifier, size: Sequence[int], metadata: Metadata, path: Path
) -> None:
    from safetensors.torch import save

    weights = {name: value.contiguous() for name, value in model.network.state_dict().items()}
    path.write_bytes(save(weights, dict(metadata)))  # save_file() makes a file of mode 600


def _load_safetensors(path: Path) -> Run:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata: Metadata = file.metadata()
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    name = metadata["model_name"]
    network = build_model(name, ModelShape(**json.loads(metadata["model_shape"])))
    network.load_state_dict(weights)
    return _running(Classifier(network, Normalize(name)))


def _example(size: Sequence[int]) -> tuple[torch.Tensor]:
    # Of two clips: torch takes a batch of one for a constant.
    return (torch.zeros(2, *size, 3, dtype=torch.uint8),)


def _any_batch() -> Any:
    return ({0: torch.export.Dim("batch")},)


def _running(model: nn.Module) -> Run:
    def run(clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.no_grad():
            found: NDArray[np.float32] = model(torch.from_numpy(clips)).numpy()
        return found

    return run


FORMATS: Mapping[str, Format] = {
    "onnx": Format(
        suffix=".onnx",
        packages=("onnxscript", "onnxruntime"),
        write=_write_onnx,
        load=_load_onnx,
    ),
    "pt2": Format(suffix=".pt2", packages=(), write=_write_pt2, load=_load_pt2),
    "safetensors": Format(
        suffix=".safetensors",
        packages=("safetensors",),
        write=_write_safetensors,
        load=_load_safetensors,
    ),
}
