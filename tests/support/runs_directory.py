"""Run directories made by the modules that make those of a training."""

from pathlib import Path
from typing import Any

from mlops.files.canonical import config_hash
from mlops.run.attempts import recorded_attempt
from mlops.run.directory import make_run, write_metadata
from mlops.run.environment import environment
from mlops.run.identity import TrainingIdentity
from mlops.tracker import ExperimentTracker


def config(**train: Any) -> dict[str, Any]:
    return {"seed": 0, "train": {"epochs": 3, "monitor": "accuracy"} | train}


def wanted(config: dict[str, Any], inputs: tuple[str, ...] = ()) -> TrainingIdentity:
    fingerprint = {
        "config": config_hash(config),
        "inputs": dict.fromkeys(inputs, "d" * 64),
        "code": {"stages/train.py": "e" * 64},
        "versions": {"python": "3.11.7"},
        "device": "cpu",
    }
    return TrainingIdentity(
        config=config, fingerprint=fingerprint, trajectory="t", cell=(), num_epochs=3
    )


def log(run_dir: Path, scores: list[float]) -> None:
    """Log one epoch per score: validation accuracy `score`, loss `1 - score`."""
    tracker = ExperimentTracker(run_dir, run_dir.name)
    for epoch, score in enumerate(scores):
        tracker.log({"loss": 0.5}, step=epoch * 10 + 1, epoch=epoch, phase="step")
        metrics = {"accuracy": score, "loss": 1 - score}
        tracker.log(metrics, step=epoch * 10 + 10, epoch=epoch, phase="val")
    tracker.close()


def finished_run(
    base: Path,
    scores: list[float],
    experiment: str = "demo",
    published: dict[str, str] | None = None,
    inputs: tuple[str, ...] = (),
    **train: Any,
) -> Path:
    run_dir = make_run(base, experiment, wanted(config(**train), inputs))
    with recorded_attempt(run_dir, start="new", environment=environment(["numpy"])):
        log(run_dir, scores)
        write_metadata(
            run_dir, published=published or {}, published_epoch=scores.index(max(scores))
        )
    return run_dir
