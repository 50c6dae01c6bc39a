"""Sessions of the pages run as they are written, and print what is shown."""

import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.clone import ROOT, commit, dvc, environment, git
from tests.support.pages import Command, agrees, sessions
from tests.support.warm import warm

TUTORIAL = ROOT / "docs/your_videos.md"
EXPERIMENTS, COMMANDS, RESTORING = (
    ROOT / f"docs/{name}.md" for name in ("experiments", "commands", "restoring")
)

RUN = re.compile(r"run_\d{8}_\d{6}_[0-9a-f]{8}")


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
    assert_prints_what_it_shows(session, workspace)


def test_a_trial_is_compared_found_among_the_runs_and_taken_back_as_shown(workspace: Path) -> None:
    (trial,) = set(re.findall(r"`dvc (exp run --name .*)`", COMMANDS.read_text()))
    dvc(*trial.split(), cwd=workspace)
    assert_prints_what_it_shows(session_of(EXPERIMENTS, "dvc params diff"), workspace)
    assert_prints_what_it_shows(session_of(COMMANDS, "python -m commands runs"), workspace)

    commit(workspace, "second run")
    restored = session_of(RESTORING, "git checkout HEAD~1 && dvc checkout")
    of_the_second = session_of(RESTORING, "python -m commands runs show")
    assert_prints_what_it_shows([*restored, *of_the_second], workspace)

    git("checkout", "--quiet", "main", cwd=workspace)
    dvc("checkout", cwd=workspace)
    assert_prints_what_it_shows(session_of(EXPERIMENTS, "dvc exp run --temp"), workspace)


def session_of(page: Path, first: str) -> list[Command]:
    """Return the one session of a page whose first command begins so."""
    (found,) = (each for each in sessions(page) if each[0].line.startswith(first))
    return found


def assert_prints_what_it_shows(session: list[Command], root: Path) -> None:
    """Run the commands of a session, with the runs of `root` for those that are shown."""
    shown_runs = sorted({run for each in session for run in RUN.findall(each.line + each.printed)})
    own_runs = sorted(path.name for path in root.glob("runs/*/run_*"))[-len(shown_runs) :]
    _, env = warm([sys.executable, "-m", "dvc"], environment())  # for the stages that DVC starts
    for command in session:
        line, shown = command.line, command.printed
        for shown_run, own_run in zip(shown_runs, own_runs, strict=bool(shown_runs)):
            line, shown = line.replace(shown_run, own_run), shown.replace(shown_run, own_run)
        result = subprocess.run(
            ["bash", "-o", "pipefail", "-c", line],
            cwd=root,
            env=env,
            text=True,
            capture_output=True,
            check=False,
        )
        assert result.returncode == 0, f"{line}\n{result.stdout}{result.stderr}"
        printed = re.sub(rf"\b{re.escape(socket.gethostname())}\b", "vm", result.stdout)
        if line.startswith("dvc metrics diff"):
            shown, printed = of_common_metrics(shown, printed)
        assert agrees(shown, printed), f"{line}\nshown:\n{shown}\nprinted:\n{printed}"


def of_common_metrics(shown: str, printed: str) -> tuple[str, str]:
    """Leave out the rows of one alone: DVC has none for a metric that stays, and samples differ."""
    rows = [
        set(re.findall(r"^metrics\.json +(\S+)", text, re.MULTILINE)) for text in (shown, printed)
    ]
    common = set.intersection(*rows)
    assert {"test.loss", "val.loss"} <= common

    def reduced(text: str) -> str:
        lines = text.splitlines(keepends=True)
        return "".join(
            line
            for line in lines
            if not line.startswith("metrics.json") or line.split()[1] in common
        )

    return reduced(shown), reduced(printed)
