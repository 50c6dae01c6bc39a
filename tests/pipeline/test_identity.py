"""One identity: what can change a result decides on training again, and nothing else."""

import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mlops.files.atomic import content_hash
from mlops.files.checkpoint_file import load_checkpoint
from mlops.files.source import meaning
from stages.identity import DECISIVE, training_code
from tests.support.clone import CELL, ROOT, dvc, git, set_params, stages_run
from tests.support.trainer import MODEL, results, stopped_run, the_run, train

LONG: dict[str, Any] = {"train": {"epochs": 4, "batch_size": 4, "schedule": "constant"}}

REMARK = '"""Said again, and more."""\n# and why\n'


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, path
    path.write_text(text.replace(old, new))


def remark(path: Path) -> None:
    """Give a module another docstring and a comment."""
    text = path.read_text()
    path.write_text(REMARK + text[text.index('"""', 3) + 3 :])
    assert path.read_text() != text


def talk_about_everything(root: Path) -> None:
    for name in ("video/learning/losses.py", "video/scoring/monitored.py", "stages/train.py"):
        remark(root / name)
    edit(root / "mlops/processes/progress.py", "LINE_EVERY_SEC = ", "LINE_EVERY_SEC = 0.5 * ")


@pytest.fixture
def root(workspace: Path) -> Path:
    """Return a finished clone that is to train for longer, without a run."""
    set_params(workspace, LONG)
    shutil.rmtree(workspace / "runs")
    return workspace


def test_remarks_and_progress_edited_while_a_training_is_interrupted_resume_it(root: Path) -> None:
    train(root)
    whole = results(root)
    shutil.rmtree(root / "runs")
    stopped = stopped_run(root, 9, signal.SIGTERM)
    talk_about_everything(root)
    output = train(root)
    assert f"train: resuming runs/sample/{stopped.name}" in output
    assert "epoch 0: train loss" not in output
    assert results(root) == whole


def test_a_changed_operator_starts_a_new_training_and_names_the_module(root: Path) -> None:
    stopped_run(root, 9, signal.SIGTERM)
    edit(root / "video/learning/losses.py", "1.0 - label_smoothing", "1.0 + label_smoothing")
    output = train(root)
    assert "train: starting" in output
    assert "video/learning/losses.py" in output
    assert "epoch 0: train loss" in output


@pytest.mark.parametrize("online", [False, True])
def test_every_module_that_counts_is_part_of_the_identity(online: bool) -> None:
    """By its meaning: what a statement more changes, a changed operator changes too."""
    code = training_code("small3d", online=online)
    rooms = {path.parent.as_posix() for path in code - DECISIVE}
    expected = {"clips", "learning", "models", "scoring", "splitting"}
    assert rooms - {"video"} == {
        f"video/{room}" for room in expected | ({"augmentation"} if online else set())
    }
    for path in code:
        source = (ROOT / path).read_bytes()
        assert meaning(source + b"\n_ = 1\n") != meaning(source)


def test_a_cell_counts_its_own_model_and_not_the_list_of_them() -> None:
    own, other = (training_code(name, online=False) for name in ("small3d", "r3d_18"))
    assert own - other == {Path("video/models/small3d.py")}
    assert other - own == {Path("video/models/torchvision.py")}
    assert Path("video/models/registry.py") not in own | other
    assert Path("video/scoring/metrics.py") not in own


def outs(root: Path) -> dict[str, str]:
    names = ("models", "results", "metrics.json")
    return {name: content_hash(root / name) for name in names}


def test_remarks_and_progress_edited_after_a_training_publish_the_same_bytes(
    workspace: Path,
) -> None:
    before, run = outs(workspace), the_run(workspace)
    talk_about_everything(workspace)
    output = dvc("repro", cwd=workspace)
    assert "train" in stages_run(output)
    assert f"train: publishes again what is finished in {run}" in output
    assert "train loss" not in output
    assert outs(workspace) == before
    assert stages_run(dvc("repro", cwd=workspace)) == set()


def test_a_models_own_values_train_its_cells_alone(workspace: Path) -> None:
    set_params(workspace, {"train_of": {"r3d_18": {"epochs": 30}}})
    assert stages_run(dvc("repro", cwd=workspace)) == {"report"}
    set_params(workspace, {"train_of": {"small3d": {"epochs": 1}}})
    output = dvc("repro", "train", cwd=workspace)
    assert stages_run(output) == {"embed", "train"}
    assert "train: small3d fold 0 seed 0: values of its own: epochs 1" in output
    assert len((workspace / CELL.history).read_text().splitlines()) == 2


def test_a_replaced_file_of_weights_is_taken_over_anew(workspace: Path) -> None:
    given, taken = workspace / "data/given.pt", workspace / CELL.initial_weights
    set_params(workspace, {"init_model": {"weights": "file", "weights_file": "data/given.pt"}})
    biases = []
    for fill in (1.0, 2.0):
        torch.save({"head.bias": torch.full((2,), fill)}, given)
        assert stages_run(dvc("repro", "init_model", cwd=workspace)) == {"init_model"}
        biases.append(load_checkpoint(taken)["model"]["head.bias"].tolist())
    assert biases == [[1.0, 1.0], [2.0, 2.0]]


def test_a_new_model_metric_and_augmentation_train_no_cell_again(workspace: Path) -> None:
    """As the pages say how to add them."""
    before = {path: content_hash(workspace / path) for path in (MODEL, CELL.history)}
    shutil.copy(ROOT / "examples/own_model.py", workspace / "video/models/own_model.py")
    for name in ("own_model", "own_augmentation", "own_metrics"):
        apply_page(workspace, ROOT / f"docs/{name}.md")
    output = dvc("repro", cwd=workspace)
    assert {"generate_augmentations", "init_model", "train", "evaluate"} <= stages_run(output)
    assert "train loss" not in output
    assert {path: content_hash(workspace / path) for path in before} == before
    scores = json.loads((workspace / CELL.evaluation).read_text())["test"]
    assert -1 <= scores["kappa"] <= scores["accuracy"]

    set_params(workspace, {"augment": {"grayscale_probability": 1.0, "noise_probability": 0.0}})
    own = ("-S", "+train_of.own_model={}", "-S", "models=[own_model]", "-S", "train.epochs=1")
    output = dvc("exp", "run", *own, cwd=workspace)
    assert "train: own_model fold 0 seed 0: epoch 0: train loss" in output
    packs = [np.load(path) for path in (workspace / "data/augmented").glob("*.npy")]
    assert packs
    assert all((pack == pack[..., :1]).all() for pack in packs)


def apply_page(root: Path, page: Path) -> None:
    """Apply the lines that a page shows to add."""
    (shown,) = re.findall(r"^```diff\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    (root / "shown.diff").write_text(shown)
    git("apply", "shown.diff", cwd=root)
    (root / "shown.diff").unlink()


def test_code_that_dvc_yaml_does_not_declare_is_refused(workspace: Path) -> None:
    room = workspace / "video/extra"
    room.mkdir()
    (room / "__init__.py").touch()
    (room / "doubt.py").write_text("HALF = 0.5\n")
    edit(
        workspace / "video/scoring/metrics.py",
        "import numpy as np\n",
        "import numpy as np\nfrom video.extra.doubt import HALF  # noqa: F401\n",
    )
    output = dvc("repro", "evaluate", cwd=workspace, check=False)
    said = (
        "evaluate: dvc.yaml: evaluate: expected all code that the stage imports among its deps, "
        "found video/extra/doubt.py in none; add to the deps of the stage: - video/extra"
    )
    assert said in output
    pipeline = (workspace / "dvc.yaml").read_text()
    (workspace / "dvc.yaml").write_text(
        re.sub(r"(      - stages/(?:evaluate|report)\.py\n)", r"\1      - video/extra\n", pipeline)
    )
    assert stages_run(dvc("repro", cwd=workspace)) == {"evaluate", "report"}
