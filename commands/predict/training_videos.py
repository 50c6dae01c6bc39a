"""The videos that training saw, and warnings of predictions that these do not bear out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from commands.predict.models import Prediction
from mlops.errors import PipelineError
from video.source.facts import VideoFacts
from video.splitting.duplicates import AS_IT_IS, near_duplicates

NEAR_DISTANCE = 0.2  # as split.near_duplicate_distance is delivered
SHORTER = 0.5  # of the shortest training video
OUTSIDE = 0.25  # beyond the range of the training videos

MANY = 1000  # videos, which take some seconds to compare

UNIT = {"duration": " s", "rate": " fps", "aspect": ""}

COLUMNS = (
    *("video_path", "label", "sha256", "fingerprint", "duration_sec", "fps"),
    *("width", "height", "rotation", "pixel_aspect"),
)


@dataclass(frozen=True, kw_only=True)
class TrainingVideos:
    """The videos outside the test set, and what about them: `path` is the table they stand in."""

    path: Path
    table: pl.DataFrame


def load_training_videos(
    path: Path, splits: Path, labels: Sequence[str], *, named: bool
) -> TrainingVideos | str:
    """Return the videos of a table that are not in the test set, or why there are none.

    A table that the user has `named` must be one of videos with these labels.
    """
    fault = f"{path}: expected the videos of load_data, found none" if not path.is_file() else ""
    if not fault:
        table = pl.read_parquet(path)
        missing = [name for name in COLUMNS if name not in table.columns]
        if missing:
            fault = (
                f"{path}: expected the columns {', '.join(COLUMNS)}, got no {', no '.join(missing)}"
            )
        elif set(table["label"].cast(pl.String).unique()) - set(labels):
            found = ", ".join(sorted(map(str, table["label"].unique())))
            fault = f"{path}: expected videos of {', '.join(labels)}, got {found}"
    if fault and named:
        raise PipelineError(f"{fault}; name data/videos.parquet of the training, or none")
    if fault:
        return fault
    if splits.is_file():
        trained = pl.read_parquet(splits).filter(pl.col("fold").is_not_null())
        table = table.join(trained, on=["video_path", "sha256"], how="semi")
    if table.is_empty():
        return f"{path}: expected videos outside the test set, found none"
    return TrainingVideos(path=path, table=table.select(COLUMNS))


def warnings_of(
    predictions: Sequence[Prediction], training: TrainingVideos | None, *, whole: bool
) -> list[list[str | None]]:
    """Return the warning of each span of each prediction: "" for none, None if nothing is known.

    whole: whether clips are taken from all over a span, so that its length matters.
    """
    if training is None:
        return [[None] * len(each.reading.spans) for each in predictions]
    found = [each.reading.facts for each in predictions]
    alike = known_pictures([facts for facts in found if facts is not None], training.table)
    limits = ranges(training.table)
    warnings: list[list[str | None]] = []
    for each in predictions:
        facts = each.reading.facts
        if facts is None:
            warnings.append([None] * len(each.reading.spans))
            continue
        of_video = [alike.get(facts.sha256, ""), *unusual(facts, limits)]
        spans = [
            facts.duration_sec if start is None or end is None or not whole else end - start
            for start, end in each.reading.spans
        ]
        warnings.append(["; ".join(filter(None, [*of_video, short(sec, limits)])) for sec in spans])
    return warnings


def known_pictures(facts: Sequence[VideoFacts], table: pl.DataFrame) -> dict[str, str]:
    """Return which training video shows the same, by content hash."""
    name_of = dict(table.select("sha256", "video_path").iter_rows())
    told = {
        each.sha256: f"is training video '{name_of[each.sha256]}', byte for byte"
        for each in facts
        if each.sha256 in name_of
    }
    new = {each.sha256: each.fingerprint for each in facts if each.sha256 not in told}
    if not new:
        return told
    hashes = list(new)
    fingerprints = [*table["fingerprint"].to_numpy(), *new.values()]
    if len(fingerprints) > MANY:
        print(f"predict: compares {len(new):,} videos with {table.height:,} training videos")
    pairs = near_duplicates(fingerprints, max_distance=NEAR_DISTANCE)
    for pair in sorted(pairs, key=lambda pair: pair.distance):
        if pair.first < table.height <= pair.second:
            shown = "" if pair.shown == AS_IT_IS else f", {pair.shown}"
            told.setdefault(
                hashes[pair.second - table.height],
                f"shows the same as training video '{table['video_path'][pair.first]}' "
                f"(distance {pair.distance:.3f}{shown})",
            )
    return told


def ranges(table: pl.DataFrame) -> dict[str, tuple[float, float]]:
    """Return the least and the greatest of what is `measured` of the videos; 0 is not known."""
    rows = [measured(row) for row in table.drop("fingerprint").iter_rows(named=True)]
    known = {name: [row[name] for row in rows if row[name] > 0] for name in UNIT}
    return {name: (min(values), max(values)) for name, values in known.items() if values}


def measured(facts: Mapping[str, Any]) -> dict[str, float]:
    """Return duration, rate and aspect, width over height as shown."""
    shown = facts["width"] * facts["pixel_aspect"] / facts["height"]
    return {
        "duration": facts["duration_sec"],
        "rate": facts["fps"],
        "aspect": 1 / shown if facts["rotation"] % 180 else shown,
    }


def unusual(facts: VideoFacts, limits: Mapping[str, tuple[float, float]]) -> list[str]:
    own = measured(vars(facts))
    told = []
    for name in ("rate", "aspect"):
        low, high = limits.get(name, (0.0, math.inf))
        # A rate of 0 is not known.
        if own[name] and not (1 - OUTSIDE) * low <= own[name] <= (1 + OUTSIDE) * high:
            told.append(beside(name, own[name], limits))
    return told


def short(duration_sec: float, limits: Mapping[str, tuple[float, float]]) -> str:
    shortest, _ = limits.get("duration", (0.0, math.inf))
    if duration_sec >= SHORTER * shortest:
        return ""
    return beside("duration", duration_sec, limits)


def beside(name: str, value: float, limits: Mapping[str, tuple[float, float]]) -> str:
    low, high = (f"{limit:.3g}" for limit in limits[name])
    known = low if low == high else f"{low} to {high}"
    return f"{name} {value:.3g}{UNIT[name]}, training videos {known}{UNIT[name]}"
