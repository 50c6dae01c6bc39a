"""An edit while a stage runs is never recorded as what its result was made from."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mlops.files.atomic import content_hash
from mlops.files.source import meaning
from mlops.inputs import InputsChangedError, StageInputs, stage_inputs
from mlops.recorded.dvc_lock import recorded_stages
from stages.paths import Cell
from tests.support.clone import CELL, dvc, environment, run_stage, set_params
from tests.support.live_processes import children

TRAIN = f"train@{CELL.model}-{CELL.fold}-{CELL.seed}"
REPRO, EXP_RUN = ("repro",), ("exp", "run")


class Dvc:
    """A DVC command at work, which is edited under while it is held by SIGSTOP."""

    def __init__(self, root: Path, *command: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "dvc", *command],
            cwd=root,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.output = ""

    def __enter__(self) -> "Dvc":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()

    def hold_after_line(self, words: str) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.output += line
            if words in line:
                break
        else:
            pytest.fail(self.output)
        os.killpg(self._process.pid, signal.SIGSTOP)

    def hold_with_workers(self, module: str) -> None:
        """Hold once the stage has started a worker process."""
        deadline = time.monotonic() + 60
        while not any(
            b"mlops.workers.worker" in command_line(worker)
            for stage in descendants(self._process.pid)
            if module.encode() in command_line(stage)
            for worker in children(stage)
        ):
            assert time.monotonic() < deadline
            time.sleep(0.002)
        os.killpg(self._process.pid, signal.SIGSTOP)

    def end(self) -> int:
        """Let it go on to its end, and return its exit code."""
        os.killpg(self._process.pid, signal.SIGCONT)
        self.output += self._process.communicate(timeout=120)[0]
        return self._process.returncode


def descendants(process: int) -> list[int]:
    return [found for child in children(process) for found in (child, *descendants(child))]


def command_line(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def results(root: Path) -> dict[str, str]:
    return {path.name: content_hash(root / path) for path in (CELL.best_model, CELL.history)}


@pytest.fixture
def longer(workspace: Path) -> Path:
    """Return a finished clone that is to train again, long enough to be held meanwhile."""
    set_params(workspace, {"train": {"epochs": 12}})
    return workspace


@pytest.mark.parametrize("command", [REPRO, EXP_RUN], ids=" ".join)
def test_a_parameter_edited_while_training_publishes_nothing(
    longer: Path, command: tuple[str, ...]
) -> None:
    before, lock = ((longer / name).read_text() for name in ("params.yaml", "dvc.lock"))
    with Dvc(longer, *command) as run:
        run.hold_after_line("epoch 1: train loss")
        set_params(longer, {"train": {"learning_rate": 1e-4}})
        assert run.end() != 0
    fault = "params.yaml: train.learning_rate: expected 0.002 as at the start, got 0.0001"
    assert f"train: warning: small3d fold 0 seed 0: {fault}" in run.output
    assert f"\ntrain: {fault}\n" in run.output
    assert not (longer / CELL.best_model).exists()
    assert not (longer / CELL.history).exists()
    assert parameters_in((longer / "dvc.lock").read_text()) == parameters_in(lock)
    (longer / "params.yaml").write_text(before)
    went_on = dvc(*command, cwd=longer)
    assert "train: resuming" in went_on
    assert "epoch 0: train loss" not in went_on
    resumed = results(longer)
    set_params(longer, {"runtime": {"resume": "never"}})
    dvc("repro", "--force", "--single-item", TRAIN, cwd=longer)
    assert resumed == results(longer)


def parameters_in(lock: str) -> Any:
    return recorded_stages(lock.encode())[TRAIN].params


@pytest.mark.parametrize("command", [REPRO], ids=" ".join)
def test_a_line_of_code_added_while_training_publishes_nothing(
    longer: Path, command: tuple[str, ...]
) -> None:
    path = longer / "video/learning/losses.py"
    before = path.read_text()
    with Dvc(longer, *command) as run:
        run.hold_after_line("epoch 1: train loss")
        path.write_text(f"{before}ADDED = 1\n")
        assert run.end() != 0
    place = f"video/learning/losses.py line {len(before.splitlines()) + 1}"
    assert f"\ntrain: {place}: expected the content of the start, got another\n" in run.output
    assert not (longer / CELL.best_model).exists()
    path.write_text(before)
    assert "train: resuming" in dvc(*command, cwd=longer)


def test_an_edit_that_changes_no_meaning_is_let_pass(longer: Path) -> None:
    path = longer / "video/learning/losses.py"
    with Dvc(longer, "repro", TRAIN) as run:
        run.hold_after_line("epoch 1: train loss")
        path.write_text(f"{path.read_text()}# a comment\n")
        set_params(longer, {"runtime": {"log_every_steps": 7}, "report": {"examples_per_class": 3}})
        assert run.end() == 0, run.output
    assert "warning" not in run.output


@pytest.mark.parametrize("command", [EXP_RUN], ids=" ".join)
def test_a_label_changed_while_videos_are_loaded_publishes_nothing(
    own: Path, command: tuple[str, ...]
) -> None:
    index = own / "data/mine/index.csv"
    before, recorded = index.read_text(), record_of_videos(own)
    set_params(own, {"load_data": {"max_duration_sec": 500.0}})
    with Dvc(own, *command) as run:
        run.hold_with_workers("stages.load_data")
        first = before.splitlines()[1]
        other = {"authentic": "tampered", "tampered": "authentic"}
        label = next(label for label in other if f",{label}" in first)
        index.write_text(before.replace(first, first.replace(f",{label}", f",{other[label]}")))
        assert run.end() != 0, run.output
    assert (
        "data/mine/index.csv line 2: expected the content of the start, got another" in run.output
    )
    assert not (own / "data/videos.parquet").exists()
    assert not (own / "data/quarantine.csv").exists()
    assert record_of_videos(own) == recorded
    index.write_text(before)
    assert "load_data: 0 videos decoded" in dvc(*command, cwd=own)


def record_of_videos(root: Path) -> Any:
    return recorded_stages((root / "dvc.lock").read_bytes())["load_data"]


def test_a_report_of_other_parameters_than_the_results_have_is_refused(workspace: Path) -> None:
    """As if the value had been edited between the training and the report."""
    set_params(workspace, {"train": {"learning_rate": 1e-4}})
    set_params(workspace, {"train_of": {"small3d": {"clip_norm": 1.0}, "s3d": {}}})
    before = (workspace / "report.html").read_bytes()
    code, output = run_stage("report", cwd=workspace)
    assert code == 1
    assert (
        f"report: params.yaml: train.learning_rate: expected 0.002, with which {TRAIN} ran, "
        "got 0.0001\n"
    ) in output
    assert f"train_of.small3d.clip_norm: expected no value, with which {TRAIN} ran, got" in output
    assert "s3d" not in output.replace("small3d", "")
    assert (workspace / "report.html").read_bytes() == before


def test_files_of_the_user_stay_where_results_of_other_cells_are_removed(workspace: Path) -> None:
    other = Cell(model="small3d", fold=1, seed=0)
    directory = workspace / other.results
    shutil.copytree(workspace / CELL.results, directory)
    (directory / "notes.txt").write_text("mine")
    code, output = run_stage("report", cwd=workspace)
    assert code == 0, output
    assert [path.name for path in directory.iterdir()] == ["notes.txt"]
    assert f"{other.results / 'notes.txt'} is no result of a cell" in output


class TestStageInputs:
    """In a directory with files of its own."""

    @pytest.fixture(autouse=True)
    def _in_tmp_path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        Path("params.yaml").write_text("seed: 0\ntrain: {epochs: 8, learning_rate: 2.0e-3}\n")
        Path("packs").mkdir()
        Path("packs/a.npy").write_bytes(b"a")

    def changes(self, inputs: StageInputs) -> str:
        try:
            inputs.check()
        except InputsChangedError as error:
            return "\n".join(error.faults)
        return ""

    def test_another_spelling_of_a_value_is_no_change(self) -> None:
        inputs = StageInputs([], {"params.yaml": ["train"]})
        Path("params.yaml").write_text(
            "# a comment\ntrain:\n  learning_rate: 0.002\n  epochs: 8\nseed: 1\n"
        )
        assert self.changes(inputs) == ""

    def test_a_key_that_is_gone_and_a_new_one_are_changes(self) -> None:
        inputs = StageInputs([], {"params.yaml": ["train"]})
        Path("params.yaml").write_text("train: {epochs: 8, momentum: 0.9}\n")
        assert self.changes(inputs).splitlines()[:2] == [
            "params.yaml: train.learning_rate: expected 0.002 as at the start, got no value",
            "params.yaml: train.momentum: expected no value as at the start, got 0.9",
        ]

    @pytest.mark.parametrize("size", [10, 2_000_000])
    def test_a_file_of_any_size_is_compared_by_its_content(self, size: int) -> None:
        path = Path("init.pt")
        path.write_bytes(b"0" * size)
        inputs = StageInputs([path], {})
        path.write_bytes(b"0" * size)
        assert self.changes(inputs) == ""
        path.write_bytes(b"0" * (size - 1) + b"1")
        assert "init.pt" in self.changes(inputs)
        path.unlink()
        assert "init.pt: expected the content as at the start, found no file" in self.changes(
            inputs
        )

    def test_a_file_that_appears_is_a_change(self) -> None:
        inputs = StageInputs([Path("late.csv")], {})
        Path("late.csv").write_text("a")
        assert "late.csv: expected no file as at the start, found one" in self.changes(inputs)

    def test_of_a_directory_what_was_there_must_stay(self) -> None:
        inputs = StageInputs([Path("packs")], {})
        Path("packs/b.npy").write_bytes(b"b")
        assert self.changes(inputs) == ""
        Path("packs/a.npy").write_bytes(b"c")
        assert "packs/a.npy: expected the content of the start, got another" in self.changes(inputs)
        Path("packs/a.npy").unlink()
        assert "packs/a.npy: expected the content of the start, got no file" in self.changes(inputs)

    def test_a_stage_that_reads_some_files_minds_no_others(self) -> None:
        Path("packs/rename.py").write_text("1\n")  # a script of the user's among the videos
        inputs = StageInputs([Path("packs")], {})
        inputs.read_only(Path("packs"), [Path("packs/b.npy")])
        Path("packs/a.npy").unlink()
        assert self.changes(inputs) == ""
        Path("packs/b.npy").write_bytes(b"b")
        assert "packs/b.npy: expected the content of the start, got another" in self.changes(inputs)

    def test_a_directory_of_code_is_compared_by_the_meaning_of_its_modules(self) -> None:
        module = Path("video/clips/thing.py")
        module.parent.mkdir(parents=True)
        module.write_text("x = 1 + 1\n")
        inputs = StageInputs([module.parent], {})
        module.write_text("x = 1  +  1  # two\n")
        assert self.changes(inputs) == ""
        module.write_text("x = 1 - 1\n")
        assert f"{module} line 1: expected the content of the start, got another" in self.changes(
            inputs
        )

    def test_news_are_told_once(self) -> None:
        inputs = StageInputs([], {"params.yaml": ["seed"]})
        Path("params.yaml").write_text("seed: 1\n")
        assert inputs.news() == ["params.yaml: seed: expected 0 as at the start, got 1"]
        assert inputs.news() == []

    def test_what_dvc_yaml_declares_is_resolved_as_dvc_does(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Path("dvc.yaml").write_text(
            "stages:\n  train:\n    deps: ['${train.name}.csv', 'init/${item.model}.pt', packs]\n"
            "    params: [seed, 'of.${item.model}', other.yaml: [a]]\n"
        )
        values = "seed: 0\ntrain: {name: index}\nof: {s3d: {n: 1}, small3d: {n: 1}}\n"
        Path("params.yaml").write_text(values)
        Path("other.yaml").write_text("a: {b: 1}\nc: 2\n")
        monkeypatch.setattr(sys, "argv", ["train", "--model", "small3d"])
        inputs = stage_inputs("train")
        for name in ("index.csv", "init/small3d.pt"):
            Path(name).parent.mkdir(exist_ok=True)
            Path(name).write_text("new")
        Path("other.yaml").write_text("a: {b: 2}\nc: 3\n")
        Path("params.yaml").write_text(values.replace("n: 1", "n: 2"))
        faults = self.changes(inputs).splitlines()[:4]
        assert faults[0].startswith("params.yaml: of.small3d.n: expected 1 as at the start, got 2")
        assert [fault.split(":")[0] for fault in faults[1:]] == [
            "other.yaml",
            "index.csv",
            "init/small3d.pt",
        ]


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ("a = 1\n", "a = 1  # one\n\n", True),
        ('def f():\n    "Old."\n    return 1\n', 'def f():\n    "New."\n    return 1\n', True),
        ('def f():\n    "Old."\n', "def f():\n    pass\n", False),
        ("a = 1\n", "a = 2\n", False),
        ("a = (\n", "a = ( \n", False),
    ],
)
def test_the_meaning_of_source_is_its_tree_without_docstrings(
    before: str, after: str, same: bool
) -> None:
    assert (meaning(before.encode()) == meaning(after.encode())) == same
