"""A terminal that knows ASCII alone ends no stage and no command, whatever they have to print."""

import sys
from pathlib import Path

import polars as pl
import pytest

from tests.support.clone import ROOT, commit, dvc, git, run, set_params, stages_run

STAGES = {
    *("sample", "load_data", "create_splits", "create_dataset", "generate_augmentations"),
    *("init_model", "embed", "train", "evaluate", "report"),
}


# Python takes C for C.UTF-8 unless told not to, as with a locale of one byte a sign.
PLAIN = {
    "LC_ALL": "C",
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONUTF8": "0",
    "PYTHONIOENCODING": "ascii",
}


@pytest.fixture
def plain(own: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a clone whose own videos have labels beyond ASCII, under a locale of ASCII alone."""
    index = pl.read_csv(own / "data/mine/index.csv", infer_schema=False)
    labels = pl.col("label").replace({"authentic": "écht", "tampered": "gefälscht"})
    (own / "data/mine/index.csv").unlink()
    index.with_columns(labels).write_csv(own / "data/mine/index.csv")
    set_params(
        own,
        {
            "data": {"labels": ["écht", "gefälscht"]},
            "experiment": {"description": "größe"},
            "seeds": [0, 1],
        },
    )
    dvc("add", "data/mine", cwd=own)
    commit(own, "labels beyond ASCII")
    for name, value in PLAIN.items():
        monkeypatch.setenv(name, value)
    return own


def test_every_stage_and_command_ends_on_a_terminal_of_ascii(plain: Path) -> None:
    output = dvc("repro", cwd=plain)
    assert stages_run(output) == STAGES
    assert "\\xb1" in output
    assert "gef\\xe4lscht" in output
    git("commit", "--quiet", "--all", "--message", "beyond ASCII", cwd=plain)
    first, second, _ = sorted(path.name for path in plain.glob("runs/sample/run_*"))
    for command in (
        ("runs",),
        ("runs", "show", first),
        ("runs", "compare", first, second),
        ("runs", "gc"),
        ("data",),
        ("data", "diff", "HEAD~2", "HEAD"),
        ("data", "used", first),
        ("doctor",),
    ):
        run(sys.executable, "-m", "commands", *command, cwd=plain)


def test_a_file_name_that_the_locale_lacks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = "run_command('train', lambda: open('gr\\xf6\\xdfe'))"
    code = f"from mlops.stage import run_command; {body}"
    for name, value in PLAIN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert run(sys.executable, "-c", code, cwd=tmp_path, check=False) == (
        "train: file name 'gr\\xf6\\xdfe': expected a locale that has its signs, got ascii; run "
        "export LC_ALL=C.UTF-8, then the same command again\n"
    )
