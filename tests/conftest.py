"""What several test files need: where the repository is, and where the reference material lies."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout under test."""
    return ROOT


@pytest.fixture(scope="session")
def scfd() -> Path:
    """300 real surveillance clips, which are never copied into the repository."""
    path = ROOT.parent / "shared/real/scfd"
    if not path.is_dir():
        pytest.skip(f"needs the reference videos at {path}")
    return path
