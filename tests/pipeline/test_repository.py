"""The repository itself: its license, and a clone whose git converts line endings."""

import tomllib
from pathlib import Path

from tests.support.clone import ROOT, commit, dvc, git


def test_the_license_is_named_alike_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (name,) = project["license-files"]
    assert (ROOT / name).read_text().splitlines()[0] == f"{project['license']} License"
    assert f"{project['license']}: [{name}]({name})" in (ROOT / "README.md").read_text()


def test_a_clone_that_converts_line_endings_is_up_to_date(workspace: Path, tmp_path: Path) -> None:
    index = Path("data/mine/index.csv")
    (workspace / index).parent.mkdir()
    (workspace / index).write_bytes(b"video_path,label\r\na.mp4,fight\n")
    git("add", "--force", str(index), cwd=workspace)
    commit(workspace, "own index")
    clone = tmp_path / "converting"
    git(
        "clone",
        "--quiet",
        "--config",
        "core.autocrlf=true",
        str(workspace),
        str(clone),
        cwd=tmp_path,
    )
    dvc("config", "--local", "cache.dir", str(workspace / ".dvc/cache"), cwd=clone)
    dvc("checkout", "--quiet", cwd=clone)
    assert "up to date" in dvc("status", cwd=clone)
    assert (clone / index).read_bytes() == (workspace / index).read_bytes()
