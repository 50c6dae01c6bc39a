"""Identity of a training: its parameters, inputs, code, versions and device."""

from pathlib import Path

import torch

from mlops.params import section_as
from mlops.resume import Start
from mlops.run.identity import (
    TrainingIdentity,
    imported_sources,
    run_fingerprint,
    trajectory_hash,
)
from stages.params import Params, Train
from stages.paths import AUGMENTED, CLIPS, SPLITS, Cell
from video.augmentation.config import AugmentationRecipe
from video.learning.schedules import depends_on_epochs
from video.models.registry import MODULES

# Outside video/, what can change a trained weight, or the bytes of the file that holds it.
DECISIVE = {
    Path(name)
    for name in (
        "stages/train.py",
        "mlops/determinism.py",
        "mlops/files/checkpoint_file.py",
        "mlops/processes/group.py",
    )
}

REGISTRY = Path("video/models/registry.py")

# Distributions whose version can change a trained weight.
LIBRARIES = ("torch", "torchvision", "numpy", "opencv-python-headless", "polars")


def training_identity(cell: Cell, params: Params, devices: str) -> TrainingIdentity:
    """Return what identifies this training on `devices`.

    `seed` of params.yaml is not in it: it acts through the inputs. The packs are not hashed: the
    tables hold the sha256 of every clip, and the loader compares.
    """
    online = params.augment.online
    recipe = section_as(params.augment, AugmentationRecipe)
    features = [cell.features] if params.train.features == "frozen" else []
    config = {
        "train": vars(params.train),
        # Copies that were made before training are an input, whatever made them.
        "augment": {"online": online} | (recipe.in_effect() if online else {}),
        "split": {
            "near_duplicate_distance": params.split.near_duplicate_distance,
            # Only where it is so: the fingerprints of other trainings stay what they are.
            **({"accept_given_leaks": True} if params.split.accept_given_leaks else {}),
        },
        "model": cell.model,
        "fold": cell.fold,
        "seed": cell.seed,
    }
    fingerprint = run_fingerprint(
        config=config,
        inputs=[CLIPS, SPLITS, AUGMENTED, cell.initial_weights, *features],
        code=training_code(cell.model, online=online),
        libraries=LIBRARIES,
        builds={"torch": str(torch.__version__)},
        device=devices,
    )
    length = () if depends_on_epochs(params.train.schedule) else ("train.epochs",)
    return TrainingIdentity(
        config=config,
        fingerprint=fingerprint,
        trajectory=trajectory_hash(fingerprint, config, without=length),
        cell=("model", "fold", "seed"),
        num_epochs=params.train.epochs,
    )


def training_code(model: str, *, online: bool) -> set[Path]:
    """Return the modules that can change what a training of this model publishes.

    Of the models that is this one alone, not the list of them; of augmentation nothing, unless
    training augments by itself.
    """

    def counts(path: Path) -> bool:
        if path.parts[:2] == ("video", "augmentation"):
            return online
        return path.parts[0] == "video" and path != REGISTRY

    modules = ["stages.train", MODULES[model]]
    found = (
        imported_sources(name, counts=lambda p: p in DECISIVE or counts(p)) for name in modules
    )
    return DECISIVE.union(*found)


def why_not_extended(start: Start | None, train: Train) -> str:
    """Return why a run of fewer epochs is not extended; "" if there is none."""
    if start and "train.epochs" in start.differs and depends_on_epochs(train.schedule):
        return f"the {train.schedule} schedule depends on train.epochs: no shorter run can go on"
    return ""
