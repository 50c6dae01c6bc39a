"""Earlier contents of an out are found in DVC's cache, newest first, and only whole ones."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlops.recorded.dvc_cache import cache_directory, recorded_outs

MAKE = "python -c \"import shutil; shutil.copy('source', 'made')\""


def dvc(*arguments: str) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-m", "dvc", *arguments]
    subprocess.run(command, env=os.environ | {"PATH": path}, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DVC repository whose out `made` has been "1", "2" and "3"."""
    monkeypatch.chdir(tmp_path)
    dvc("init", "--no-scm", "--quiet")
    (tmp_path / "dvc.yaml").write_text(
        f"stages:\n  make:\n    cmd: {MAKE}\n    deps: [source]\n    outs: [made]\n"
    )
    for content in ("1", "2", "3"):
        (tmp_path / "source").write_text(content)
        dvc("repro", "--quiet")
    return tmp_path


def contents(path: str) -> list[str]:
    return [file.read_text() for file in recorded_outs(path, cache_directory())]


def test_every_earlier_content_is_found_newest_first(repository: Path) -> None:
    assert contents("made") == ["3", "2", "1"]


def test_what_dvc_lock_names_comes_first(repository: Path) -> None:
    (repository / "source").write_text("1")
    dvc("repro", "--quiet")
    assert contents("made")[0] == "1"
    assert sorted(contents("made")) == ["1", "2", "3"]


def test_an_out_that_was_never_made_has_no_contents(repository: Path) -> None:
    assert contents("source") == []
    assert contents("mad") == []


def test_objects_that_are_gone_or_not_whole_are_left_out(repository: Path) -> None:
    newest, middle, _ = recorded_outs("made", cache_directory())
    newest.unlink()
    middle.chmod(0o644)
    middle.write_text("")
    assert contents("made") == ["1"]


def test_a_lock_file_that_does_not_parse_costs_only_what_it_names(repository: Path) -> None:
    (repository / "dvc.lock").write_text("stages: [")
    assert sorted(contents("made")) == ["1", "2", "3"]


def test_outside_of_a_dvc_repository_there_is_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert recorded_outs("made", cache_directory()) == []
