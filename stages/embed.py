"""Features of all clips, made by the frozen backbone of a model's initial weights.

The table has one row per content of a clip. A clip is computed by itself, so that its features
depend on no other; those that an earlier run computed in the same way are taken over. Where the
whole model is trained, the table is empty, whatever the clips are.
"""

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops.errors import PipelineError
from mlops.files import atomic
from mlops.inputs import StageInputs
from mlops.processes.parent import stop_flag
from mlops.processes.progress import counted, track
from mlops.processes.signals import StoppedError
from mlops.recorded.reuse import EarlierFiles
from mlops.run.identity import fingerprint_hash, imported_sources, run_fingerprint
from mlops.stage import parse_options, run_stage
from stages.params import read_params
from stages.paths import (
    AUGMENTED,
    AUGMENTED_PACKS,
    CLIPS,
    PACKS,
    features_file,
    initial_weights,
)
from video.clips.loading import REQUIRED, ClipSet
from video.clips.packs import PackError
from video.models.registry import MODULES

if TYPE_CHECKING:  # Importing torch takes seconds: not where the whole model is trained.
    from video.models.backbone import Backbone

Features = dict[str, NDArray[np.float32]]  # by the sha256 of the clip

SAVE_EVERY_SEC = 30.0


@dataclass(frozen=True, kw_only=True)
class Target:
    """The features to be made, by the initial weights of a model and a seed."""

    model: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.model} seed {self.seed}"

    @property
    def weights(self) -> Path:
        return initial_weights(self.model, self.seed)

    @property
    def out(self) -> Path:
        return features_file(self.model, self.seed)

    @property
    def earlier(self) -> EarlierFiles:
        return EarlierFiles(f"embed_{self.model}_{self.seed}", self.out.name)

    @property
    def saved(self) -> Path:
        """The path of what has been computed, until the stage has finished."""
        return self.earlier.directory / self.out.name


def main(inputs: StageInputs) -> None:
    target = Target(**vars(parse_options(__doc__, model=str, seed=int)))
    params = read_params()
    own = params.train_of.get(target.model, {})
    table = pl.DataFrame(schema={"clip_sha256": pl.String})
    if own.get("features", params.train.features) == "frozen":
        num_threads = own.get("num_threads", params.train.num_threads)
        table = embed(target, params.runtime.device, num_threads)
    inputs.check()
    write(table, target.out)
    target.earlier.clear()


def embed(target: Target, device_name: str, num_threads: int) -> pl.DataFrame:
    """Return the table of features, reused and computed; save it now and then, and at a stop."""
    from mlops.determinism import make_deterministic
    from mlops.files.checkpoint_file import load_checkpoint
    from mlops.processes.devices import claimed_devices
    from video.models.backbone import Backbone, HeadError

    stop = stop_flag()
    make_deterministic(0, num_threads=num_threads)
    clips = all_clips()
    sha256s = clips.table["clip_sha256"].to_list()
    claim = claimed_devices(device_name, work=f"embed {target.name}", log=log, check=stop.check)
    with claim as (device,):
        backbone = Backbone.of_state(load_checkpoint(target.weights), device)
        made_by = identity(backbone, clips.clip_shape, num_threads)
        features = known_features(target, made_by, set(sha256s))
        missing = [row for row, sha256 in enumerate(sha256s) if sha256 not in features]
        counts = f"{counted(len(missing), 'clip')} computed, {len(features)} reused"
        next_save = time.monotonic() + SAVE_EVERY_SEC
        try:
            for row in stop.checked(track(missing, total=len(missing), task="embed")):
                features[sha256s[row]] = backbone.features(clips.read([row]))[0]
                if time.monotonic() >= next_save:
                    write(feature_table(features, made_by), target.saved)
                    next_save = time.monotonic() + SAVE_EVERY_SEC
        except StoppedError:
            if features:
                write(feature_table(features, made_by), target.saved)
            raise
        except HeadError as error:
            raise PipelineError(str(error)) from None
    log(f"{target.name}: {counts}")
    return feature_table({sha256: features[sha256] for sha256 in sha256s}, made_by)


def all_clips() -> ClipSet:
    """Return every content of a clip once, augmented copies included."""
    tables = [pl.read_parquet(path, columns=list(REQUIRED)) for path in (CLIPS, AUGMENTED)]
    directories = [PACKS] * tables[0].height + [AUGMENTED_PACKS] * tables[1].height
    both = pl.concat(tables).with_row_index("row").unique("clip_sha256", maintain_order=True)
    labels = both["label"].unique().to_list()
    return ClipSet(both, [directories[row] for row in both["row"]], labels)


def identity(backbone: "Backbone", clip_shape: tuple[int, ...], num_threads: int) -> str:
    """Return 64 hex digits of all that decides on the features of a clip, beside the clip."""
    import torch

    from mlops.determinism import device_kind

    def counts(path: Path) -> bool:
        return path.parts[:2] == ("video", "models") and path.name != "registry.py"

    modules = ("video.models.backbone", MODULES[backbone.name])
    fingerprint = run_fingerprint(
        config={
            "model": backbone.name,
            "backbone": backbone.digest(),
            "clip_shape": list(clip_shape),
            "num_threads": num_threads,
        },
        inputs=[],
        code={path for name in modules for path in imported_sources(name, counts=counts)},
        libraries=("torch", "torchvision"),
        builds={"torch": str(torch.__version__)},
        device=device_kind(backbone.device),
    )
    return fingerprint_hash(fingerprint)


def known_features(target: Target, made_by: str, wanted: Collection[str]) -> Features:
    """Return the features of these clips that earlier runs have computed.

    Also for other seeds, whose weights differ in the head alone unless they are random.
    """
    found: Features = {}
    others = target.out.parent.parent.glob(f"*/{target.out.name}")
    for out in sorted({target.out, *others}):
        for version in target.earlier.versions(out) if len(found) < len(wanted) else ():
            table = pl.read_parquet(version)
            if "made_by" in table.columns:
                rows = table.filter(
                    pl.col("made_by") == made_by, pl.col("clip_sha256").is_in(wanted)
                )
                found |= zip(rows["clip_sha256"], rows["features"].to_numpy(), strict=True)
    return found


def feature_table(features: Mapping[str, NDArray[np.float32]], made_by: str) -> pl.DataFrame:
    columns = {"clip_sha256": list(features), "features": np.stack(list(features.values()))}
    return pl.DataFrame(columns).with_columns(made_by=pl.lit(made_by))


def write(table: pl.DataFrame, path: Path) -> None:
    with atomic.replacing(path) as temporary:
        table.write_parquet(temporary)


def log(text: str) -> None:
    print(f"embed: {text}")


if __name__ == "__main__":
    run_stage("embed", main, input_faults=(PackError,))
