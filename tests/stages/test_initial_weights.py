"""Weights that a training starts from: of a file or published, matched by the names of classes."""

import hashlib
import io
import json
import random
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models._api import Weights, WeightsEnum

from mlops.errors import PipelineError
from mlops.files.checkpoint_file import save_checkpoint
from stages.init_model import adopt, read_file
from video.models.classifiers import build_model
from video.models.shape import ModelShape
from video.models.weights import GivenWeights, UnusableWeightsError, in_order, published

LABELS = ["calm", "fall", "fight"]
SHAPE = ModelShape(num_classes=3, frames=8, height=32, width=32, dropout=0.0)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def built(name: str = "small3d", *, seed: int, shape: ModelShape = SHAPE) -> nn.Module:
    torch.manual_seed(seed)
    return build_model(name, shape)


def logits(model: nn.Module) -> torch.Tensor:
    clips = torch.randn(2, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found: torch.Tensor = model.eval()(clips)
    return found


def started(given: GivenWeights, name: str = "small3d") -> nn.Module:
    """Return a model for LABELS that was drawn with seed 2 and has taken over the weights."""
    model = built(name, seed=2)
    adopt(model, *in_order(given, LABELS, name, SHAPE))
    return model


# --- classes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["small3d", "s3d"])
def test_classes_in_another_order_are_matched_by_name(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = built(name, seed=1)
    path = tmp_path / "best_model.pt"
    save_checkpoint(path, {"model": source.state_dict(), "labels": ["fight", "calm", "fall"]})

    model = started(read_file(path), name)

    torch.testing.assert_close(logits(model), logits(source)[:, [1, 2, 0]])
    assert "their labels are fight, calm, fall: the head's outputs are matched by name" in (
        capsys.readouterr().out
    )


def test_an_exported_file_is_matched_by_name_too(tmp_path: Path) -> None:
    source, path = built(seed=1), tmp_path / "model.safetensors"
    save_file(source.state_dict(), path, {"labels": json.dumps(["fall", "calm", "fight"])})
    torch.testing.assert_close(logits(started(read_file(path))), logits(source)[:, [1, 0, 2]])


@pytest.mark.parametrize("labels", [["calm", "fall", "run"], ["calm", "fall"]])
def test_for_other_classes_the_head_is_drawn_anew(
    labels: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    shape = ModelShape(**vars(SHAPE) | {"num_classes": len(labels)})
    source = built(seed=1, shape=shape).state_dict()

    found, drawn = started(GivenWeights(source, labels)).state_dict(), built(seed=2).state_dict()

    for name, tensor in found.items():
        assert torch.equal(tensor, (drawn if name.startswith("head") else source)[name]), name
    output = capsys.readouterr().out
    assert f"their labels are {', '.join(labels)}, others than data.labels: the head" in output
    assert "drawn: head.bias, head.weight" in output


def test_a_file_without_labels_is_said_to_be_taken_in_their_order(
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = built(seed=1)
    assert torch.equal(logits(started(GivenWeights(source.state_dict()))), logits(source))
    assert "they name no labels: taken to be in the order of data.labels" in capsys.readouterr().out


def test_matching_draws_nothing() -> None:
    given = GivenWeights(built(seed=1).state_dict(), LABELS[::-1])
    before = torch.get_rng_state()
    in_order(given, LABELS, "small3d", SHAPE)
    assert torch.equal(torch.get_rng_state(), before)


# --- files -------------------------------------------------------------------------------------


def saved(value: object, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_the_tensors_of_a_file_are_taken(suffix: str, tmp_path: Path) -> None:
    weights, path = built(seed=1).state_dict(), tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(weights, path)
    else:
        path.write_bytes(saved({"state_dict": weights, "epoch": 3} if suffix == ".pt" else weights))

    given = read_file(path)

    assert given.labels is None
    assert given.tensors.keys() == weights.keys()
    assert all(torch.equal(given.tensors[name], weights[name]) for name in weights)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "weights_file: expected a file, got '.*weights.pt', which does not exist"),
        (b"", "does not load as such; save the model's state_dict.. again"),
        (b"PK\x03\x04 no archive", "does not load as such"),
        (b"<!DOCTYPE html>", "does not load as such"),
        (saved(Path("x")), "does not load as such"),  # an object that only code could make
        (saved(torch.zeros(3)), "expected a state dict, got Tensor"),
        (saved({"model": 3}), "expected a state dict, got int"),
    ],
)
def test_what_holds_no_weights_is_refused(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PipelineError, match=message):
        read_file(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_no_damage_ends_in_a_traceback(tmp_path: Path) -> None:
    drawn, path = random.Random(0), tmp_path / "weights.pth"
    whole = saved({"a": torch.zeros(9)}, _use_new_zipfile_serialization=False)
    for _ in range(300):
        content = bytearray(whole[: drawn.randrange(len(whole))] if drawn.random() < 0.5 else whole)
        for _ in range(min(3, len(content))):
            content[drawn.randrange(min(120, len(content)))] = drawn.randrange(256)
        path.write_bytes(content)
        with suppress(PipelineError):
            read_file(path)


def test_a_damaged_model_of_this_repository_is_refused_by_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "best_model.pt"
    save_checkpoint(path, {"model": {"a": torch.full((100,), 2.0)}, "labels": LABELS})
    content = bytearray(path.read_bytes())
    content[content.find(torch.full((4,), 2.0).numpy().tobytes()) + 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(PipelineError, match=r"its checksum differs\); copy it again from"):
        read_file(path)


def test_a_damaged_safetensors_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\x08\0\0\0\0\0\0\0{}      " + bytes(4))
    with pytest.raises(PipelineError, match="expected tensors saved by safetensors, got a file"):
        read_file(path)


def test_without_its_package_a_safetensors_file_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(PipelineError, match="run python -m pip install safetensors"):
        read_file(path)


def test_weights_of_another_model_are_refused() -> None:
    with pytest.raises(PipelineError, match=r"no entry fits; its first entry is 'other\.weight'"):
        started(GivenWeights({"other.weight": torch.zeros(1)}))


# --- published weights -------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Serve tmp_path/served; give its address."""

    class Silent(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    (tmp_path / "served").mkdir()
    handler = partial(Silent, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory in which torch keeps what it has downloaded."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "torch/hub/checkpoints"


def published_at(address: str, content: bytes) -> tuple[Any, str]:
    """Return weights of torchvision's kind, and the name of their file, by its content's hash."""
    name = f"tiny-{hashlib.sha256(content).hexdigest()[:8]}.pth"

    class Tiny(WeightsEnum):
        V1 = Weights(f"{address}/{name}", transforms=lambda: None, meta={"categories": LABELS})

    return Tiny.V1, name


CONTENT = saved({"head.bias": torch.arange(3.0)})


def test_published_weights_are_downloaded_once(
    server: str, cache: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    weights, name = published_at(server, CONTENT)
    (tmp_path / "served" / name).write_bytes(CONTENT)
    given = published(weights)
    assert "100%" in capfd.readouterr().err
    assert given.labels == LABELS
    assert torch.equal(given.tensors["head.bias"], torch.arange(3.0))

    (tmp_path / "served" / name).unlink()
    assert published(weights).tensors.keys() == given.tensors.keys()


def test_a_download_with_another_hash_is_refused_and_not_kept(
    server: str, cache: Path, tmp_path: Path
) -> None:
    weights, name = published_at(server, CONTENT)
    (tmp_path / "served" / name).write_bytes(CONTENT[:-1])
    with pytest.raises(UnusableWeightsError, match=rf"{name} with the hash of its name, got"):
        published(weights)
    assert list(cache.iterdir()) == []


def test_a_file_put_there_by_hand_has_its_hash_compared(server: str, cache: Path) -> None:
    weights, name = published_at(server, CONTENT)
    cache.mkdir(parents=True)
    (cache / name).write_bytes(CONTENT[:-1])
    with pytest.raises(UnusableWeightsError, match=r"expected a sha256 that begins with \w{8}, as"):
        published(weights)
    (cache / name).write_bytes(CONTENT)
    assert published(weights).labels == LABELS


def test_without_network_the_error_names_address_file_and_place(cache: Path) -> None:
    weights, name = published_at("http://127.0.0.1:9", CONTENT)
    with pytest.raises(UnusableWeightsError) as caught:
        published(weights)
    said = f"get http://127.0.0.1:9/{name} on another machine and put {name} into {cache}"
    assert said in str(caught.value)
