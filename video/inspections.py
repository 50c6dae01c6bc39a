"""What full decodes found, kept by content, so that no video is decoded twice.

A row is a function of the file's bytes, the suffix of its name (FFmpeg looks at it too), the
version of the inspection, the decoders and the limits; a table holds those of one run.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

import polars as pl

from video.decoding import INSPECTION_VERSION, VideoFacts, decoder_versions

# A limit ended these inspections: another limit may let them go on.
STOPPED_BY_A_LIMIT = ("timeout", "out_of_memory", "too_long")
# A crash may be the machine's fault and is found again at once.
TRIED_AGAIN = ("crashed",)

_TYPES: dict[Any, Any] = {str: pl.String, int: pl.Int64, float: pl.Float64}

Content = tuple[str, str]  # sha256 and suffix


@dataclass(frozen=True, kw_only=True)
class InspectionLimits:
    """Of one video: wall-clock time of its decode, memory, duration."""

    time_limit_sec: float
    memory_limit_mb: int
    max_duration_sec: float


def inspection_key() -> str:
    """What decides, beside content and limits, what an inspection finds."""
    return json.dumps({"inspection": INSPECTION_VERSION} | decoder_versions())


def inspections_table(facts: dict[Content, VideoFacts], limits: InspectionLimits) -> pl.DataFrame:
    """One row a content, in the order of the hashes."""
    rows = [
        {"suffix": suffix, "inspection": inspection_key()} | asdict(limits) | asdict(found)
        for (_, suffix), found in sorted(facts.items(), key=lambda item: item[0])
    ]
    columns: dict[str, Any] = {"sha256": pl.String, "suffix": pl.String, "inspection": pl.String}
    for field in (*fields(InspectionLimits), *fields(VideoFacts)):
        columns[field.name] = _TYPES[field.type]
    return pl.DataFrame(rows, schema=columns)


def known_facts(
    contents: Iterable[Content], table: pl.DataFrame, limits: InspectionLimits
) -> dict[Content, VideoFacts]:
    """The facts in an earlier run's table that a decode under `limits` would find again.

    What was found within limits is found within wider ones; what a limit ended, ends again at the
    same limits only.
    """
    if table.schema != inspections_table({}, limits).schema:
        return {}
    given = asdict(limits)
    same = pl.all_horizontal(pl.col(name) == limit for name, limit in given.items())
    within = pl.all_horizontal(pl.col(name) <= limit for name, limit in given.items())
    stopped = pl.col("verdict").is_in(STOPPED_BY_A_LIMIT)
    valid = table.filter(
        pl.col("inspection") == inspection_key(),
        ~pl.col("verdict").is_in(TRIED_AGAIN),
        pl.when(stopped).then(same).otherwise(within),
    )
    names = [field.name for field in fields(VideoFacts)]
    found = {
        (row["sha256"], row["suffix"]): VideoFacts(**{name: row[name] for name in names})
        for row in valid.iter_rows(named=True)
    }
    return {content: found[content] for content in contents if content in found}
