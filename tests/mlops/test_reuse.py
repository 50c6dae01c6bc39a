"""Files of earlier runs are found in DVC's cache and below runs/, newest first and whole."""

import sys
from pathlib import Path

import pytest

from mlops.recorded.reuse import EarlierFiles
from tests.support.clone import run

MAKE = "python -c \"import shutil; shutil.copy('source', 'made')\""


def dvc(*arguments: str) -> None:
    run(sys.executable, "-m", "dvc", *arguments, cwd=Path())


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a DVC repository whose out `made` has been "1", "2" and "3"."""
    monkeypatch.chdir(tmp_path)
    dvc("init", "--no-scm", "--quiet")
    (tmp_path / "dvc.yaml").write_text(
        f"stages:\n  make:\n    cmd: {MAKE}\n    deps: [source]\n    outs: [made]\n"
    )
    for content in ("1", "2", "3"):
        (tmp_path / "source").write_text(content)
        dvc("repro", "--quiet")
    return tmp_path


def earlier() -> EarlierFiles:
    return EarlierFiles("make", r"made|[0-9]{4}\.npy")


def contents(path: str) -> list[str]:
    return [file.read_text() for file in earlier().versions(Path(path))]


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
    newest, middle, _ = earlier().versions(Path("made"))
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
    assert earlier().versions(Path("made")) == []


@pytest.fixture
def kept_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change to a directory that has what a killed run has kept."""
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()


def test_what_a_killed_run_has_kept_comes_before_what_dvc_has(repository: Path) -> None:
    (repository / "made").write_text("4")
    earlier().keep(repository / "made")
    assert contents("made") == ["4", "3", "2", "1"]
    assert earlier().find("made") == b"4"
    assert earlier().find("mad") is None


def test_only_files_that_a_stage_kept_are_removed_when_it_has_finished(kept_here: None) -> None:
    made = Path("0123.npy")
    made.write_bytes(b"clip")
    kept = earlier()
    kept.keep(made)
    notes = kept.directory / "notes.txt"
    notes.write_text("mine")
    kept.clear()
    assert list(kept.directory.iterdir()) == [notes]
    notes.unlink()
    kept.keep(made)
    kept.clear()
    assert not kept.directory.exists()


def test_a_link_in_the_place_of_unfinished_files_is_not_followed(kept_here: None) -> None:
    Path("mine").mkdir()
    Path("mine/0123.npy").write_bytes(b"clip")
    kept = earlier()
    kept.directory.symlink_to(Path("mine").absolute())
    kept.clear()
    assert Path("mine/0123.npy").exists()
