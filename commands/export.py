"""Export of a trained model to a file that needs nothing of this repository to run."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from commands.predict.models import read_model
from commands.predict.reading import USABLE, Task, read_video, videos_in
from mlops.determinism import make_deterministic
from mlops.errors import CODE, PipelineError
from mlops.files import atomic
from mlops.files.checkpoint_file import State
from mlops.processes.progress import counted, track
from stages.paths import CLIPS, PACKS
from video.clips.loading import SHAPE, Batch, ClipSet
from video.clips.packs import PackError
from video.export.formats import FORMATS, Classifier, Format, Metadata, NotExportableError
from video.export.parity import BATCH_SIZES, MAX_DIFFERENCE, largest_difference
from video.learning.trained import TrainedModel

NUM_CLIPS = 12  # of the parity check, if none are named
MAX_DURATION_SEC = 600.0

CPU = torch.device("cpu")


@click.command(help=__doc__)
@click.argument("model", type=Path)
@click.option("--to", type=click.Choice(list(FORMATS)), required=True, help="The format.")
@click.option("--out", type=Path, metavar="FILE", help="[MODEL with the format's suffix]")
@click.option(
    "--clips",
    multiple=True,
    type=Path,
    metavar="VIDEO_OR_FOLDER",
    help="Compare on these; may be given again.  [clips of data/]",
)
@click.option("--threads", default=2, metavar="N", help="CPU threads.  [2]")
def command(model: Path, to: str, out: Path | None, clips: tuple[Path, ...], threads: int) -> None:
    """Export, compare with the model on real clips, and only then put the file in its place."""
    form, out = FORMATS[to], out or model.with_suffix(FORMATS[to].suffix)
    if out.suffix != form.suffix:
        raise click.UsageError(
            f"--out: expected a file that ends in {form.suffix}, got '{out}'; rename it"
        )
    check_installed(to, form)
    make_deterministic(0, num_threads=threads)
    state, trained = read_model(model, CPU)
    compared, origin = clips_to_compare(trained, clips)
    expected = trained.probabilities(
        track(single_batches(compared), total=len(compared), task="export: the model itself"), CPU
    )
    print(f"export: makes {out}, which may take a minute")
    with atomic.replacing(out) as path:
        write(path, to, trained, metadata(state, model))
        difference = largest_difference(form.load(path), compared, expected, progress)
        if not difference <= MAX_DIFFERENCE:  # so that no number is none, too
            raise PipelineError(
                f"{out}: expected the probabilities of {model} to {MAX_DIFFERENCE:g}, got a "
                f"difference of {difference:.1e} on {origin}; not written: take another format"
            )
    sizes = " and ".join(map(str, BATCH_SIZES))
    print(
        f"export: {out}: largest difference of a probability {difference:.1e}, between clips it "
        f"is up to {spread(expected):.1e} ({origin}, in batches of {sizes})"
    )


def check_installed(name: str, form: Format) -> None:
    if missing := form.missing:
        lock = (CODE / "requirements.lock").read_text().splitlines()
        pins = [line for line in lock if line.partition("==")[0] in missing]
        raise PipelineError(
            f"--to {name}: expected the packages {', '.join(form.packages)}, found no "
            f"{', no '.join(missing)}; run python -m pip install {' '.join(pins)}"
        )


def write(path: Path, to: str, trained: TrainedModel, described: Metadata) -> None:
    exported = Classifier(trained.network, trained.normalize)
    try:
        FORMATS[to].export(exported, trained.clips.shape, described, path)
    except NotExportableError as error:
        raise PipelineError(
            f"--to {to}: expected a model that this format can hold, got {error}; take another "
            "one: see docs/exporting.md"
        ) from None


def clips_to_compare(
    trained: TrainedModel, videos: Sequence[Path]
) -> tuple[NDArray[np.uint8], str]:
    """Return clips as the model takes them, and in words where they come from."""
    if videos:
        clips = np.concatenate([clips_of(path, trained) for path in videos_in(videos)])
        return clips, f"{counted(len(clips), 'clip')} of --clips"
    if (known := known_clips(trained)) is not None:
        return known, f"{counted(len(known), 'clip')} of {CLIPS}"
    size = (NUM_CLIPS, *trained.clips.shape, 3)
    return (
        np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8),
        f"{NUM_CLIPS} clips of random pixels, for {CLIPS} has none of this size: name videos "
        "with --clips",
    )


def clips_of(path: Path, trained: TrainedModel) -> NDArray[np.uint8]:
    reading = read_video(Task(path=path, recipe=trained.clips, max_duration_sec=MAX_DURATION_SEC))
    if reading.clips is None:
        raise PipelineError(
            f"--clips: {path}: expected a video that is {USABLE}, got {reading.verdict} "
            f"({reading.reason}); name another"
        )
    return reading.clips


def known_clips(trained: TrainedModel) -> NDArray[np.uint8] | None:
    """Return clips of the pipeline's, evenly spread over their table; None without such."""
    if not CLIPS.is_file():
        return None
    table = pl.read_parquet(CLIPS)
    if table.is_empty() or table.select(SHAPE).row(0) != trained.clips.shape:
        return None
    rows = [i * table.height // NUM_CLIPS for i in range(NUM_CLIPS)]
    labels = table["label"].unique().to_list()
    try:
        return ClipSet(table, [PACKS] * table.height, labels).read(list(dict.fromkeys(rows)))
    except PackError as error:
        raise PipelineError(f"{error}; or name videos with --clips") from None


def single_batches(clips: NDArray[np.uint8]) -> Iterable[Batch]:
    none = np.zeros(1, np.int64)
    return (
        Batch(clips=clips[i : i + 1], labels=none, rows=range(i, i + 1)) for i in range(len(clips))
    )


def progress(batches: Sequence[slice]) -> Iterable[slice]:
    return track(batches, total=len(batches), task="export: the exported model")


def spread(probabilities: NDArray[np.float64]) -> float:
    """Return by how much a probability differs between clips."""
    return float(np.ptp(probabilities, axis=0).max())


def metadata(state: State, path: Path) -> Metadata:
    """Return all that a program needs beside the file, and what the file was made of."""
    values: dict[str, Any] = {
        "input": "uint8 (batch, frames, height, width, 3), RGB, as `clips` says",
        "output": "float32 (batch, classes): probabilities, in the order of `labels`",
        "labels": state["labels"],
        "clips": state["clips"],
        "frames": "at the centers of equal parts of the video's time, unless `clips` has a rate; "
        "the probabilities of a video are the mean of those of its clips",
        "normalization": {"pixels": "divided by 255", **state["normalization"]},
        "model_name": state["architecture"],
        "model_shape": state["shape"],
        "epoch": state["epoch"],
        "model_sha256": atomic.content_hash(path),
        "torch": str(torch.__version__),
    }
    return {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in values.items()
    }
