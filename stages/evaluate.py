"""Evaluation of one trained model on validation and test, beside two baselines without video.

Its model card says the same beside the model's file, for those who have nothing else.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops.determinism import derive_seed, make_deterministic
from mlops.errors import PipelineError
from mlops.files import atomic
from mlops.files.checkpoint_file import load_checkpoint
from mlops.inputs import StageInputs
from mlops.processes.devices import claimed_devices
from mlops.processes.parent import stop_flag
from mlops.processes.progress import track
from mlops.stage import parse_options, run_stage
from stages.params import check_cell, read_params
from stages.paths import CLIPS, PACKS, QUARANTINE, SPLITS, VIDEOS, Cell
from video.card.model_card import DataFacts, ModelFacts, model_card
from video.clips.loading import Batch, ClipSet
from video.clips.packs import PackError
from video.learning.memory import TooLittleMemoryError
from video.learning.trained import TrainedModel
from video.scoring.baselines import METADATA, majority_probabilities, metadata_probabilities
from video.scoring.metrics import classification_metrics
from video.scoring.monitored import NonFinitePredictionsError
from video.scoring.outcomes import Outcome
from video.splitting.cells import cell_clips
from video.splitting.leakage import LeakageError
from video.splitting.splits import TEST, TRAIN, VAL, class_names

SPLIT = (VAL, TEST)

FACTS = ("epoch", "num_candidates", "exact_up_to_step")


def main(inputs: StageInputs) -> None:
    cell = Cell(**vars(parse_options(__doc__, model=str, fold=int, seed=int)))
    stop = stop_flag()
    params = read_params()
    check_cell(cell, params)
    make_deterministic(
        derive_seed(params.seed, "evaluate"), num_threads=params.evaluate.num_threads
    )
    splits = pl.read_parquet(SPLITS)
    clips = cell_clips(
        splits,
        pl.read_parquet(CLIPS),
        cell.fold,
        near_duplicate_distance=params.split.near_duplicate_distance,
        accept_given_leaks=params.split.accept_given_leaks,
    )
    labels = class_names(clips[TEST])
    sets = {split: ClipSet(clips[split], [PACKS] * clips[split].height, labels) for split in SPLIT}

    state = load_checkpoint(cell.best_model)
    claim = claimed_devices(
        params.runtime.device, work=f"evaluate {cell.name}", log=log, check=stop.check
    )
    with claim as (device,):
        model = TrainedModel.of_state(state, device)
        batches = {split: all_batches(sets[split], params.evaluate.batch_size) for split in SPLIT}
        probabilities = {
            split: sets[split].mean_over_items(
                model.probabilities(stop.checked(batches[split]), device)
            )
            for split in SPLIT
        }
    videos = {
        split: table.unique("video_path", maintain_order=True) for split, table in clips.items()
    }
    facts = pl.read_parquet(VIDEOS, columns=["video_path", *METADATA])
    guesses = baseline_probabilities(videos, facts, labels, params.seed)

    targets = {split: sets[split].item_targets for split in SPLIT}
    document = {name: state[name] for name in FACTS} | evaluation(
        targets, probabilities, guesses, labels
    )
    predictions = prediction_table(videos, probabilities, guesses, labels)
    outcome = Outcome(
        **vars(cell),
        name=cell.name,
        num_train_videos=videos[TRAIN].height,
        evaluation=document,
        history=pl.DataFrame(),  # training's, which is not read here
        predictions=predictions,
    )
    card = model_card(outcome, model_facts(cell, model), data_facts(params.data.root, splits))
    stop.check()
    inputs.check()
    atomic.write_json(cell.evaluation, document)
    with atomic.replacing(cell.predictions) as path:
        predictions.write_parquet(path)
    atomic.write_text(cell.card, card)
    log(summary(cell, document))


def evaluation(
    targets: dict[str, NDArray[np.int64]],
    probabilities: dict[str, NDArray[np.float64]],
    guesses: dict[str, dict[str, NDArray[np.float64]]],
    labels: list[str],
) -> dict[str, Any]:
    """Return the metrics of the model by split, and those of each baseline."""
    baseline = {
        name: {
            split: classification_metrics(targets[split], by_split[split], labels)
            for split in SPLIT
        }
        for name, by_split in guesses.items()
    }
    own = {split: scored(split, targets[split], probabilities[split], labels) for split in SPLIT}
    return {**own, "baseline": baseline}


def model_facts(cell: Cell, model: TrainedModel) -> ModelFacts:
    return ModelFacts(
        path=cell.best_model,
        md5=atomic.md5(cell.best_model),
        num_parameters=sum(weights.numel() for weights in model.network.parameters()),
        clips=model.clips,
    )


def data_facts(root: str, splits: pl.DataFrame) -> DataFacts:
    return DataFacts(
        root=root,
        splits=splits,
        splits_sha256=atomic.content_hash(SPLITS),
        quarantine=pl.read_csv(QUARANTINE, infer_schema=False),
    )


def all_batches(clips: ClipSet, batch_size: int) -> Iterator[Batch]:
    batches = clips.batches(range(len(clips)), batch_size)
    return track(batches, total=-(-len(clips) // batch_size), task="evaluate")


def baseline_probabilities(
    videos: dict[str, pl.DataFrame], facts: pl.DataFrame, labels: list[str], seed: int
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Fit the baselines on the training split; return their probabilities by name and split."""
    train_targets = np.array([labels.index(label) for label in videos[TRAIN]["label"]])
    told = {
        split: table.select("video_path").join(facts, on="video_path", maintain_order="left")
        for split, table in videos.items()
    }
    by_metadata = metadata_probabilities(
        told[TRAIN],
        train_targets,
        [told[split] for split in SPLIT],
        num_classes=len(labels),
        seed=derive_seed(seed, "metadata") % 2**32,
    )
    return {
        "majority": {
            split: majority_probabilities(train_targets, videos[split].height, len(labels))
            for split in SPLIT
        },
        "metadata": dict(zip(SPLIT, by_metadata, strict=True)),
    }


def scored(
    split: str, targets: NDArray[np.int64], probabilities: NDArray[np.float64], labels: list[str]
) -> dict[str, Any]:
    try:
        return classification_metrics(targets, probabilities, labels)
    except NonFinitePredictionsError as error:
        raise PipelineError(f"{split}: {error}") from None


def prediction_table(
    videos: dict[str, pl.DataFrame],
    probabilities: dict[str, NDArray[np.float64]],
    guesses: dict[str, dict[str, NDArray[np.float64]]],
    labels: list[str],
) -> pl.DataFrame:
    """Return one row per video: path, split, label, predicted labels, one probability per class."""

    def predicted(values: NDArray[np.float64]) -> pl.Series:
        return pl.Series([labels[i] for i in values.argmax(axis=1)], dtype=pl.Enum(labels))

    return pl.concat(
        videos[split]
        .select("video_path", "sha256", "group", "label", split=pl.lit(split))
        .with_columns(predicted=predicted(probabilities[split]))
        .with_columns(
            predicted(by_split[split]).alias(f"predicted_{name}")
            for name, by_split in guesses.items()
        )
        .with_columns(
            pl.Series(f"probability_{label}", probabilities[split][:, i])
            for i, label in enumerate(labels)
        )
        for split in SPLIT
    )


def summary(cell: Cell, document: dict[str, Any]) -> str:
    baseline = document["baseline"]
    return f"{cell.name}: test balanced accuracy " + ", ".join(
        f"{name} {metrics[TEST]['balanced_accuracy']:.4f}"
        for name, metrics in (("model", document), *baseline.items())
    )


def log(text: str) -> None:
    print(f"evaluate: {text}")


if __name__ == "__main__":
    run_stage("evaluate", main, input_faults=(LeakageError, PackError, TooLittleMemoryError))
