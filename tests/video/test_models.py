"""Every model takes uint8 clips and gives a logit a class, from weights that a seed decides."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import video as torchvision_video
from torchvision.transforms._presets import VideoClassification

from video.models.backbone import Backbone, HeadError, head_alone
from video.models.classifiers import (
    Normalize,
    UnsuitableShapeError,
    build_model,
    model_module,
)
from video.models.registry import MODULES
from video.models.shape import ModelShape
from video.models.torchvision import BUILDERS, WEIGHTS
from video.models.weights import adopt_weights


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def shape_of(num_classes: int = 3, *, frames: int = 8, side: int = 32) -> ModelShape:
    return ModelShape(num_classes=num_classes, frames=frames, height=side, width=side, dropout=0.2)


def built(name: str, shape: ModelShape, *, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_model(name, shape)


def random_clips(shape: ModelShape, batch: int = 2) -> torch.Tensor:
    generator = np.random.default_rng(0)
    size = (batch, shape.frames, shape.height, shape.width, 3)
    return torch.from_numpy(generator.integers(0, 256, size, dtype=np.uint8))


# --- shapes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODULES)
def test_a_model_makes_a_logit_a_class_of_uint8_clips(name: str) -> None:
    shape = shape_of()
    model = built(name, shape).eval()

    with torch.no_grad():
        logits = model(Normalize(name)(random_clips(shape)))

    assert logits.shape == (2, 3)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", MODULES)
def test_a_model_tells_clips_apart(name: str) -> None:
    shape = shape_of()
    model = built(name, shape).eval()

    with torch.no_grad():
        first, second = model(Normalize(name)(random_clips(shape)))

    assert not torch.equal(first, second)


def test_a_layout_tells_where_and_when_something_moves() -> None:
    """Of an object that moves in one corner: in another corner, and at another time."""
    shape = shape_of(frames=9, side=48)
    clips = torch.full((3, 9, 48, 48, 3), 100, dtype=torch.uint8)
    for clip, (frames, rows) in enumerate(
        [((0, 3), (0, 16)), ((0, 3), (32, 48)), ((6, 9), (0, 16))]
    ):
        moving = torch.arange(3 * 16 * 16 * 3).reshape(3, 16, 16, 3) * 37 % 251
        clips[clip, slice(*frames), slice(*rows), :16] = moving.to(torch.uint8)
    cells = {}
    for name in ("small3d", "small3d_layout"):
        model = built(name, shape).eval()
        kept: list[torch.Tensor] = []
        model.get_submodule("dropout").register_forward_pre_hook(
            lambda _, given, kept=kept: kept.append(given[0])
        )
        with torch.no_grad():
            model(Normalize(name)(clips))
        cells[name] = kept[0]

    assert cells["small3d"].shape == (3, 2 * 64)
    assert cells["small3d_layout"].shape == (3, 28 * 64)
    grid = cells["small3d_layout"][:, : 27 * 64].reshape(3, 64, 3, 3, 3)
    still = grid[:, :, 1, 2, 2]  # nothing ever moves there
    moved = (grid - still[:, :, None, None, None]).abs().sum(1)
    assert [tuple(int(i) for i in np.unravel_index(int(m.argmax()), (3, 3, 3))) for m in moved] == [
        (0, 0, 0),
        (0, 2, 0),
        (2, 0, 0),
    ]


def backbone_of(name: str) -> Backbone:
    model = built(name, shape_of()).eval()
    return Backbone(name, model, Normalize(name), torch.device("cpu"))


@pytest.mark.parametrize("name", MODULES)
def test_the_head_makes_of_the_features_what_the_model_makes_of_the_clips(name: str) -> None:
    backbone, clips = backbone_of(name), random_clips(shape_of())
    before = backbone.digest()

    features = torch.from_numpy(backbone.features(clips.numpy()))

    head = head_alone(name, backbone.model)
    with torch.no_grad():
        assert torch.equal(head(features), backbone.model(backbone.normalize(clips)))
    assert features.dtype == torch.float32
    assert head.state_dict().keys() < backbone.model.state_dict().keys()
    assert backbone.digest() == before  # running statistics included


def test_a_head_that_is_not_all_that_follows_the_features_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(model_module("small3d"), "head", lambda name: ["dropout"])
    with pytest.raises(HeadError, match="small3d: expected the logits of the model of its head, "):
        backbone_of("small3d").features(random_clips(shape_of()).numpy())


def test_mvit_takes_clips_that_are_not_square() -> None:
    shape = ModelShape(num_classes=2, frames=4, height=32, width=64, dropout=0.0)

    with torch.no_grad():
        logits = built("mvit_v2_s", shape).eval()(Normalize("mvit_v2_s")(random_clips(shape)))

    assert logits.shape == (2, 2)


def test_a_new_model_is_ready_to_train() -> None:
    assert built("small3d", shape_of()).training


@pytest.mark.parametrize(
    ("name", "frames", "side"), [("small3d", 1, 32), ("s3d", 2, 16), ("mvit_v2_s", 3, 31)]
)
def test_an_impossible_shape_is_refused_with_model_and_shape(
    name: str, frames: int, side: int
) -> None:
    with pytest.raises(
        UnsuitableShapeError, match=rf"^{name} takes no clips of {frames} frames of {side}x{side}: "
    ):
        build_model(name, shape_of(frames=frames, side=side))


# --- weights -----------------------------------------------------------------------------------


def same(first: nn.Module, second: nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(
        torch.equal(ours[name], theirs[name]) for name in ours
    )


@pytest.mark.parametrize("name", ["small3d", "mc3_18", "mvit_v2_s"])
def test_a_seed_decides_on_the_weights(name: str) -> None:
    shape = shape_of()

    assert same(built(name, shape, seed=1), built(name, shape, seed=1))
    assert not same(built(name, shape, seed=1), built(name, shape, seed=2))


def test_the_first_weights_are_those_of_an_untrained_model() -> None:
    """The trial of the shape leaves no trace in the running statistics."""
    counts = [
        value.item()
        for name, value in built("mc3_18", shape_of()).state_dict().items()
        if name.endswith("num_batches_tracked")
    ]

    assert counts
    assert set(counts) == {0}


HEADS = {
    "small3d": ["head.bias", "head.weight"],
    "mc3_18": ["fc.1.bias", "fc.1.weight"],
    "s3d": ["classifier.1.bias", "classifier.1.weight"],
    "mvit_v2_s": ["head.1.bias", "head.1.weight"],
    "swin3d_t": ["head.1.bias", "head.1.weight"],
}


@pytest.mark.parametrize("name", HEADS)
def test_for_another_number_of_classes_only_the_head_stays_as_drawn(name: str) -> None:
    source = built(name, shape_of(5), seed=1)
    model = built(name, shape_of(3), seed=2)

    assert adopt_weights(model, source.state_dict()) == HEADS[name]


def test_adopted_weights_are_those_given() -> None:
    source, model = (built("small3d", shape_of(), seed=seed) for seed in (1, 2))

    left = adopt_weights(model, source.state_dict())

    assert left == []
    assert same(model, source)


@pytest.mark.parametrize(
    "name", ["r3d_18", "mc3_18", "r2plus1d_18", "s3d", "mvit_v2_s", "swin3d_t"]
)
def test_published_weights_fit_all_but_the_head(name: str) -> None:
    """Every tensor of torchvision's own model, whose weights are published, finds its place."""
    published = {"mvit_v2_s": shape_of(frames=16, side=224)}
    with torch.device("meta"):
        theirs = getattr(torchvision_video, name)(weights=None)
    with torch.device("meta"):
        ours = BUILDERS[name](published.get(name, shape_of()))
    shapes = {key: value.shape for key, value in theirs.state_dict().items()}

    fitting = {key for key, value in ours.state_dict().items() if shapes.get(key) == value.shape}

    left = set(ours.state_dict()) - fitting
    assert {key.split(".")[0] for key in left} <= {"fc", "head", "classifier"}
    assert len(left) <= 2


def test_the_projects_own_model_has_no_published_weights() -> None:
    assert [name for name in MODULES if model_module(name).published_weights(name) is None] == [
        "small3d",
        "small3d_layout",
    ]


def test_every_name_of_torchvisions_has_its_builder_and_its_weights() -> None:
    own = {"small3d", "small3d_layout"}
    assert set(MODULES) == {*own, *BUILDERS} == {*own, *WEIGHTS}


# --- arithmetic --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("small3d", torchvision_video.R3D_18_Weights.KINETICS400_V1),
        ("r3d_18", torchvision_video.R3D_18_Weights.KINETICS400_V1),
        ("mvit_v2_s", torchvision_video.MViT_V2_S_Weights.KINETICS400_V1),
        ("swin3d_t", torchvision_video.Swin3D_T_Weights.KINETICS400_V1),
    ],
)
def test_clips_are_normalized_as_for_the_models_own_weights(name: str, weights: Any) -> None:
    clips = random_clips(shape_of())
    preset = weights.transforms()
    reference = VideoClassification(
        crop_size=(32, 32), resize_size=(32, 32), mean=preset.mean, std=preset.std
    )

    expected = reference(clips.permute(0, 1, 4, 2, 3))

    torch.testing.assert_close(Normalize(name)(clips), expected, rtol=0, atol=1e-5)


def test_normalization_adds_nothing_to_a_checkpoint() -> None:
    assert Normalize("small3d").state_dict() == {}


@pytest.mark.parametrize("name", ["small3d", "r3d_18"])
def test_training_steps_are_allowed_under_deterministic_algorithms(name: str) -> None:
    shape = shape_of(frames=4)
    model = built(name, shape)
    clips = Normalize(name)(random_clips(shape))

    torch.use_deterministic_algorithms(True)
    try:
        gradients = []
        for _ in range(2):
            torch.manual_seed(0)
            model.zero_grad()
            model(clips).square().sum().backward()
            gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    finally:
        torch.use_deterministic_algorithms(False)

    assert gradients[0]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
