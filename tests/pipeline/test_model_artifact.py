"""What `dvc artifacts get` fetches is a model with its card, and all that the card says holds."""

import json
import re
import sys
from pathlib import Path

import polars as pl
import pytest
import yaml

from mlops.files.atomic import content_hash
from stages.paths import METRICS, QUARANTINE
from tests.support.clone import CELL, commit, dvc, git, run


def test_the_model_and_its_card_are_fetched_from_a_repository_by_name(
    workspace: Path, tmp_path: Path
) -> None:
    trained = git("rev-parse", "HEAD", cwd=workspace).strip()
    dvc("remote", "add", "--default", "store", str(tmp_path / "store"), cwd=workspace)
    commit(workspace, "remote")
    git("tag", "--annotate", "model@v1.0.0", "--message", "first", cwd=workspace)
    dvc("push", "--quiet", str(CELL.best_model), str(CELL.card), cwd=workspace)
    git("clone", "--quiet", "--bare", str(workspace), "bare", cwd=tmp_path)

    dvc("artifacts", "get", str(tmp_path / "bare"), "model", "--out", "got", cwd=tmp_path)

    got = {path.name: content_hash(path) for path in (tmp_path / "got").iterdir()}
    assert got == {
        path.name: content_hash(workspace / path) for path in (CELL.best_model, CELL.card)
    }
    card = (tmp_path / "got/README.md").read_text()
    (asked,) = re.findall(r"^git (log .*)$", card, re.MULTILINE)
    assert git(*asked.split(), cwd=workspace).split()[0] == trained
    (snippet,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    frames = "import numpy as np\nframes = np.zeros((12, 48, 64, 3), np.uint8)\n"
    code = f"import sys; sys.path.append({str(workspace)!r})\n{frames}{snippet}"
    code += "print(*classify.labels)"
    assert run(sys.executable, "-c", code, cwd=tmp_path / "got") == "authentic tampered\n"


def test_the_card_has_the_figures_and_counts_of_the_report(finished: Path) -> None:
    metrics = json.loads((finished / METRICS).read_bytes())
    card = (finished / CELL.card).read_text()

    (index,) = yaml.safe_load(card.split("---\n")[1])["model-index"]
    (result,) = index["results"]
    for item in result["metrics"]:
        name = item["name"].split(",")[0]
        assert item["value"] == pytest.approx(metrics["test"][name])
        low, high = metrics["test"][f"{name}_interval"]
        assert item["name"].endswith(f" {low:.3f} to {high:.3f}")
    counts = metrics["counts"]
    assert f"{counts['videos']} videos in {counts['groups']} groups" in card
    for part in ("train", "val", "test"):
        assert f"| {part} | {counts[f'{part}_videos']} |" in card
    verdicts = pl.read_csv(finished / QUARANTINE)["verdict"].value_counts().rows()
    assert sum(number for _, number in verdicts) == counts["quarantined"] > 0
    assert all(f"{number} {verdict}" in card for verdict, number in verdicts)
