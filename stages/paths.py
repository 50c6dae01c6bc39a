"""Paths of the pipeline, and the cells, whose results have paths of their own."""

from dataclasses import dataclass
from pathlib import Path

PARAMS_FILE = Path("params.yaml")

SAMPLE = Path("data/generated_sample")

VIDEOS = Path("data/videos.parquet")
QUARANTINE = Path("data/quarantine.csv")
QUARANTINED = Path("data/quarantined")
INSPECTIONS = Path("data/inspections.parquet")

SPLITS = Path("data/splits.parquet")
DUPLICATES = Path("data/duplicates.csv")
REBALANCE = Path("data/rebalance.yaml")

CLIPS = Path("data/clips.parquet")
PACKS = Path("data/clips")
AUGMENTED = Path("data/augmented.parquet")
AUGMENTED_PACKS = Path("data/augmented")

RESULTS = Path("results")
METRICS = Path("metrics.json")
REPORT = Path("report.html")
LOSS_PLOT = Path("plots/loss.csv")
SCORE_PLOT = Path("plots/score.csv")
CONFUSION_PLOT = Path("plots/confusion.csv")

# Where the pipeline and its runs write: no place for the user's videos.
WRITTEN = [
    QUARANTINED,
    PACKS,
    AUGMENTED_PACKS,
    RESULTS,
    *(Path(name) for name in ("models", "plots", "runs", ".dvc")),
]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training of the grid: a model that validates on a fold, repeated with a seed."""

    model: str
    fold: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.short_name} seed {self.seed}"

    @property
    def short_name(self) -> str:
        """The name without a seed, for trainings that share one seed."""
        return f"{self.model} fold {self.fold}"

    @property
    def initial_weights(self) -> Path:
        return initial_weights(self.model, self.seed)

    @property
    def features(self) -> Path:
        return features_file(self.model, self.seed)

    @property
    def best_model(self) -> Path:
        return Path(f"models/{self._place}/best_model.pt")

    @property
    def card(self) -> Path:
        return self.best_model.with_name("README.md")

    @property
    def results(self) -> Path:
        return Path(f"results/{self._place}")

    @property
    def history(self) -> Path:
        return self.results / "history.csv"

    @property
    def evaluation(self) -> Path:
        return self.results / "evaluation.json"

    @property
    def predictions(self) -> Path:
        return self.results / "predictions.parquet"

    @property
    def _place(self) -> str:
        return f"{self.model}/fold{self.fold}/seed{self.seed}"


def initial_weights(model: str, seed: int) -> Path:
    """Return the path of the weights that all cells of a model and a seed start from."""
    return Path(f"models/{model}/seed{seed}/init.pt")


def features_file(model: str, seed: int) -> Path:
    """Return the path of the features that the backbone of these weights makes of all clips."""
    return initial_weights(model, seed).with_name("features.parquet")
