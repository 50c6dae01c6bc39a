"""dvc.yaml declares the tables of the data, and the names of the files in directories."""

from pathlib import Path

import pytest

from mlops.errors import PipelineError
from mlops.recorded.dvc_yaml import data_tables, out_patterns

TABLE = """
  videos:
    path: videos.parquet
    type: table
    meta: {key: path, content: sha, label: label, group: group, counts: {videos: [path]}}
"""


def written(directory: Path, artifacts: str) -> Path:
    (directory / "dvc.yaml").write_text(f"stages: {{}}\nartifacts: {artifacts}")
    return directory


def test_other_artifacts_are_no_tables(tmp_path: Path) -> None:
    root = written(tmp_path, f"{TABLE}  model: {{path: model.pt, type: model}}\n")
    assert list(data_tables(root)) == ["videos"]
    assert data_tables(root)["videos"].meta.counts == {"videos": ["path"]}
    assert data_tables(root)["videos"].directory is None


def test_without_artifacts_there_are_no_tables(tmp_path: Path) -> None:
    assert data_tables(written(tmp_path, "{}\n")) == {}


def test_a_column_whose_meaning_is_missing_is_told(tmp_path: Path) -> None:
    root = written(tmp_path, TABLE.replace("label: label, ", ""))
    with pytest.raises(PipelineError, match=r"dvc\.yaml: artifacts: expected .* `label`.*restore"):
        data_tables(root)


def test_only_directories_with_a_pattern_have_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("dvc.yaml").write_text(
        "stages:\n  a:\n    outs: [a.csv, kept: {persist: true}, b: {meta: {files: '[0-9]'}}]\n"
        "  c: {cmd: c}\n"
    )
    assert out_patterns() == {Path("b"): "[0-9]"}
