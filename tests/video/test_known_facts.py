"""What earlier runs found in a video is reused only where a decode would find it again."""

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from video.source import facts as facts_module
from video.source.facts import InspectionLimits, VideoFacts, inspections_table, known_facts

LIMITS = InspectionLimits(time_limit_sec=60.0, memory_limit_mb=500, max_duration_sec=10.0)
WIDER = InspectionLimits(time_limit_sec=60.0, memory_limit_mb=600, max_duration_sec=10.0)
NARROWER = InspectionLimits(time_limit_sec=60.0, memory_limit_mb=500, max_duration_sec=9.0)
CONTENT = ("ab" * 32, ".mp4")


def facts(verdict: str) -> VideoFacts:
    return VideoFacts(verdict=verdict, reason="why", sha256=CONTENT[0], size_bytes=7, fps=12.5)


def reused(verdict: str, limits: InspectionLimits) -> bool:
    table = inspections_table({CONTENT: facts(verdict)}, LIMITS)
    known = known_facts([CONTENT], table, limits)
    assert known in ({}, {CONTENT: facts(verdict)})
    return bool(known)


@pytest.mark.parametrize("verdict", ["ok", "truncated", "damaged", "unreadable", "no_video"])
def test_what_was_found_within_limits_holds_within_wider_ones(verdict: str) -> None:
    assert [reused(verdict, limits) for limits in (LIMITS, WIDER, NARROWER)] == [True, True, False]


@pytest.mark.parametrize("verdict", ["timeout", "out_of_memory", "too_long"])
def test_what_a_limit_ended_is_tried_again_under_another(verdict: str) -> None:
    assert [reused(verdict, limits) for limits in (LIMITS, WIDER, NARROWER)] == [True, False, False]


@pytest.mark.parametrize("verdict", ["crashed", "internal_error"])
def test_what_may_not_be_the_files_fault_is_tried_again(verdict: str) -> None:
    assert not reused(verdict, LIMITS)


def test_another_inspection_or_decoder_finds_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    table = inspections_table({CONTENT: facts("ok")}, LIMITS)
    with monkeypatch.context() as patch:
        patch.setattr(facts_module, "INSPECTION_VERSION", 0)
        assert known_facts([CONTENT], table, LIMITS) == {}
    with monkeypatch.context() as patch:
        patch.setattr(facts_module, "decoder_versions", lambda: {"av": "0.0"})
        assert known_facts([CONTENT], table, LIMITS) == {}
    assert known_facts([CONTENT], table, LIMITS)


def test_the_same_bytes_under_another_suffix_are_another_content() -> None:
    table = inspections_table({CONTENT: facts("ok")}, LIMITS)
    assert known_facts([(CONTENT[0], ".m3u8")], table, LIMITS) == {}


def test_a_table_of_other_columns_is_not_used() -> None:
    table = inspections_table({CONTENT: facts("ok")}, LIMITS)
    assert known_facts([CONTENT], table.drop("codec"), LIMITS) == {}
    assert known_facts([CONTENT], pl.DataFrame(), LIMITS) == {}


def test_the_order_of_the_index_does_not_change_the_table(tmp_path: Path) -> None:
    other = ("cd" * 32, ".mp4")
    found = {CONTENT: facts("ok"), other: replace(facts("ok"), sha256=other[0])}
    reverse = dict(reversed(found.items()))
    assert inspections_table(found, LIMITS).equals(inspections_table(reverse, LIMITS))
