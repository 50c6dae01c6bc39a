"""The order of the test files."""

import pytest

# Those that take longest first, so that two workers end at about the same time.
LONGEST = [
    "test_pipeline.py",
    "test_sample_videos.py",
    "test_real_videos.py",
    "test_stage_errors.py",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(LONGEST)))
