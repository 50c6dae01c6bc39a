"""`python -m commands runs` lists runs, shows one in full, and puts several side by side."""

import json
import re
from pathlib import Path

import pytest

from commands.__main__ import main
from commands.runs.wording import BLOCKS, MAX_BLOCKS, sparklines
from mlops.run.attempts import start_attempt
from mlops.run.directory import make_run, write_metadata
from tests.support.runs_directory import config, finished_run, wanted


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory of runs outside of any repository."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    # Not that of a directory above.
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    return tmp_path / "runs"


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    main(["runs", *arguments])
    return capsys.readouterr().out


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["runs", *arguments])
    assert ended.value.code == 1
    return capsys.readouterr().err


def test_the_table_has_a_line_a_run_and_a_column_a_differing_parameter(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = finished_run(base, [0.5, 0.75, 0.25], learning_rate=1e-3)
    second = make_run(base, "demo", wanted(config(learning_rate=2e-3)))
    header, *lines = command(capsys).splitlines()
    assert re.split(r"  +", header.strip())[:5] == [
        "run",
        "status",
        "epochs",
        "best val accuracy",
        "train.learning_rate",
    ]
    # Of one second: in the order of their fingerprints.
    assert sorted(line.split()[:5] for line in lines) == sorted(
        [
            [first.name, "finished", "3/3", "0.7500", "0.001"],
            # Without a log, an attempt and an input.
            [second.name, "running", "0/3", "0.002"],
        ]
    )


def test_the_table_shows_the_metric_and_the_experiment_asked_for(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finished_run(base, [0.5], experiment="other")
    run = finished_run(base, [0.5, 0.75], experiment="demo")
    header, line = command(capsys, "--experiment", "demo", "--metric", "loss").splitlines()
    assert "best val loss" in header
    assert line.split()[:4] == [run.name, "finished", "2/3", "0.2500"]
    assert "best step loss" in command(capsys, "--metric", "loss", "--phase", "step")


def test_a_metric_that_no_run_has_logged_is_told(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finished_run(base, [0.5])
    said = fails(capsys, "--metric", "f1")
    assert "runs: --metric f1: expected one that a run has logged in phase val" in said
    assert "logged are step loss, val accuracy, val loss" in said
    assert "--metric loss" in fails(capsys, "--metric", "loss", "--phase", "train")


def test_runs_that_monitor_different_metrics_name_theirs(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finished_run(base, [0.5])
    finished_run(base, [0.5, 0.75], monitor="loss")
    output = command(capsys)
    assert "accuracy 0.5000" in output
    assert "loss 0.2500" in output


def test_many_differing_parameters_are_counted(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for value in (1, 2):
        finished_run(base, [0.5], **{f"key{number}": value for number in range(8)})
    header, *_, last = command(capsys).splitlines()
    assert "train.key5" in header
    assert "train.key6" not in header
    assert last == "2 more parameters not the same in all of them: --json has them"


def test_without_a_run_the_table_says_what_makes_one(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no runs; dvc repro makes one" in command(capsys)
    assert json.loads(command(capsys, "--json")) == []


def test_json_has_all_of_the_table(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished_run(base, [0.5, 0.75])
    (row,) = json.loads(command(capsys, "--json"))
    assert (row["run"], row["best"], row["metric"]) == (run.name, 0.75, "accuracy")
    assert row["parameters"]["train.epochs"] == 3


def test_a_run_is_shown_with_its_attempts_and_what_it_goes_on_from(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(base, "demo", wanted(config()))
    start_attempt(run).end("failed: no memory")
    start_attempt(run, start="resume").end("stopped by SIGTERM")
    source = {"run": "run_of_before", "exact": False, "epoch": 2, "step": 40}
    write_metadata(run, goes_on_from=source)
    output = command(capsys, "show", run.name)
    assert output.startswith(f"runs/demo/{run.name}: interrupted\n")
    assert "goes on from run_of_before, epoch 2, step 40, inexactly" in output
    assert re.search(r"^1 .* failed: no memory$", output, re.MULTILINE)
    assert re.search(r"^2 .* resume +stopped by SIGTERM$", output, re.MULTILINE)
    assert re.search(r"^  train.epochs +3$", output, re.MULTILINE)
    assert "nothing was published: the run is interrupted" in output


def test_a_run_that_is_not_there_is_told(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished_run(base, [0.5])
    said = fails(capsys, "show", "run_0")
    assert said.startswith("runs: run_0: expected the id of a run")
    assert run.name in said


# Side by side


def test_two_runs_are_compared_by_metric_parameter_and_data(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = base.parent / "data/clips.parquet"
    data.parent.mkdir()
    inputs = ("data/clips.parquet",)
    data.write_bytes(b"before")
    first = finished_run(base, [0.5, 0.75, 0.25], inputs=inputs, learning_rate=1e-3)
    data.write_bytes(b"after")
    second = finished_run(base, [0.5, 0.5], inputs=inputs, learning_rate=2e-3)
    output = command(capsys, "compare", first.name, second.name)
    told = [line.split() for line in output.splitlines()]
    assert ["A", first.name, "demo", "finished", "3/3"] in told
    assert ["val", "accuracy", "max", "0.7500", "0.5000"] in told
    assert ["val", "accuracy", "last", "0.2500", "0.5000"] in told
    assert ["val", "loss", "min", "0.2500", "0.5000"] in told
    assert ["train.learning_rate", "0.001", "0.002"] in told
    # The md5 of the two words.
    assert ["data/clips.parquet", "2f444175", "632a2406"] in told
    assert ["val", "accuracy", "by", "epoch", "▅█▁", "▅▅"] in told
    assert "step loss" not in output
    assert "train.epochs" not in output


def test_what_does_not_differ_is_said_so(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = finished_run(base, [0.5]), finished_run(base, [0.5])
    output = command(capsys, "compare", first.name, second.name)
    assert "parameter: the same" in output
    assert "data (md5): the same" in output
    assert "code: the same" in output


def test_a_run_alone_is_not_compared(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished_run(base, [0.5])
    said = fails(capsys, "compare", run.name, str(run))
    assert f"expected 2 to 26 runs, got runs/demo/{run.name} alone" in said


def test_a_sparkline_shows_the_last_of_each_part_and_what_is_not_finite() -> None:
    low, high = BLOCKS[0], BLOCKS[-1]
    assert sparklines([[0, 1]]) == [low + high]
    assert sparklines([[2, 2], []]) == [low * 2, ""]
    assert sparklines([[0], [float("nan"), 1, float("inf")]]) == [low, f"×{high}×"]
    assert sparklines([[0.0] * 999 + [1.0]]) == [low * (MAX_BLOCKS - 1) + high]
