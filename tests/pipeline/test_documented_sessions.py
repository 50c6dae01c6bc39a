"""The tutorial on one's own videos runs as it is written, and prints what it shows."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.clone import ROOT, environment
from tests.support.pages import agrees, sessions

TUTORIAL = ROOT / "docs/your_videos.md"


@pytest.mark.parametrize(
    ("shown", "printed", "agreed"),
    [
        ("a: 12 of 300, 0.5 s\n", "a: 3 of 4, 12.75 s\n", True),
        ("a: 12 of 300\n", "a: 12 of many\n", False),
        ("a\n…\nd\n", "a\nb\nc\nd\n", True),
        ("a\nd\n", "a\nb\nd\n", False),
        ("a\n", "a\nb\n", False),
        ("run 4a1b02f … ok\n", "run 0123abc  is ok\n", True),
        ("Path   Old\np.yaml  1e-3\n", "Path  Old\np.yaml  0.002\n", True),
        ("a: 2 rows\n", "predict: 1 of 2, 0.1/s, about 11 s left\na: 2 rows\n", True),
        ("test 0.5, fight\n", "test 0.5, noFight\n", False),
    ],
)
def test_what_is_printed_agrees_with_what_is_shown(shown: str, printed: str, agreed: bool) -> None:
    assert agrees(shown, printed) == agreed


def put_videos(root: Path) -> None:
    """Put videos of the sample into the folder of the tutorial, by class."""
    videos = sorted((root / "data/generated_sample").rglob("*.*"), key=lambda path: path.name)
    index = (root / "data/generated_sample/index.csv").read_text()
    label_of = {row.split(",")[2]: row.split(",")[4] for row in index.splitlines()}
    for label, folder, stem in (("tampered", "fight", "fi"), ("authentic", "noFight", "nofi")):
        (root / "data/fights" / folder).mkdir(parents=True)
        own = [path for path in videos if label_of.get(path.stem) == label]
        # One of MP4 first, as the tutorial names it.
        own.sort(key=lambda path: path.suffix != ".mp4")
        for number, path in enumerate(own, start=1):
            place = root / "data/fights" / folder / f"{stem}{number:03}{path.suffix}"
            shutil.copy(path, place)


def test_the_tutorial_prints_what_it_shows(workspace: Path) -> None:
    put_videos(workspace)
    session, *_ = sessions(TUTORIAL)
    assert len(session) >= 5
    for command in session:
        result = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command.line],
            cwd=workspace,
            env=environment(),
            text=True,
            capture_output=True,
            check=False,
        )
        assert result.returncode == 0, f"{command.line}\n{result.stdout}{result.stderr}"
        assert agrees(command.printed, result.stdout), (
            f"{command.line}\nshown:\n{command.printed}\nprinted:\n{result.stdout}"
        )
