"""The ledger tells which samples every step saw, and whether an epoch saw each of them once."""

import random
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mlops.errors import PipelineError
from mlops.metrics.ledger import Ledger, check_ledger, read_ledger

Steps = list[tuple[int, int, list[int]]]  # epoch, step, samples


def frame(steps: Steps) -> pl.DataFrame:
    schema = {"epoch": pl.Int64, "step": pl.Int64, "samples": pl.List(pl.Int64)}
    return pl.DataFrame(steps, schema=schema, orient="row")


def whole_epochs(num_epochs: int, num_samples: int, batch: int) -> Steps:
    steps: Steps = []
    for epoch in range(num_epochs):
        order = random.Random(epoch).sample(range(num_samples), num_samples)
        for begin in range(0, num_samples, batch):
            steps.append((epoch, len(steps), order[begin : begin + batch]))
    return steps


def record(directory: Path, steps: Steps) -> None:
    ledger = Ledger(directory)
    for epoch, step, samples in steps:
        ledger.record(epoch=epoch, step=step, samples=samples)
    ledger.close()


def test_what_was_recorded_comes_back(tmp_path: Path) -> None:
    steps = [*whole_epochs(2, 7, 3), (2, 99, [])]
    record(tmp_path, steps)
    assert read_ledger(tmp_path / "ledger.jsonl").rows() == steps


def test_a_line_is_epoch_step_and_samples(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path))
    ledger.record(epoch=0, step=12, samples=np.array([5, 3]))  # type: ignore[arg-type]
    ledger.close()
    assert ledger.path.read_text() == '{"epoch":0,"step":12,"samples":[5,3]}\n'


def test_a_resumed_ledger_has_every_step_once_and_the_rest_beside_it(tmp_path: Path) -> None:
    steps = whole_epochs(2, 6, 2)
    ledger = Ledger(tmp_path)
    for epoch, step, samples in steps[:2]:
        ledger.record(epoch=epoch, step=step, samples=samples)
    ledger.sync()
    state = ledger.state_dict()
    ledger.record(epoch=0, step=2, samples=[9, 9])
    ledger.close()
    again = Ledger(tmp_path)
    again.load_state_dict(state)
    again.close()
    record(tmp_path, steps[2:])
    found = read_ledger(tmp_path / "ledger.jsonl")
    assert found.rows() == steps
    assert check_ledger(found, 6, num_epochs=2) == []
    orphans = read_ledger(tmp_path / "ledger.orphans.jsonl")
    assert orphans.rows() == [(0, 2, [9, 9])]


@pytest.mark.parametrize(
    "line", ["?", '{"epoch":0,"step":3,"samples":[1,null]}', '{"epoch":0,"step":3}', "{}"]
)
def test_a_line_that_is_no_step_is_left_out_with_a_warning(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(tmp_path, [(0, 0, [1])])
    with (tmp_path / "ledger.jsonl").open("a") as stream:
        stream.write(f'{line}\n{{"epoch":0,"st')
    assert read_ledger(tmp_path / "ledger.jsonl").rows() == [(0, 0, [1])]
    assert "line 2, got something else; 1 line left out" in capsys.readouterr().err


def test_epochs_that_saw_each_sample_once_have_no_fault() -> None:
    steps = [*whole_epochs(3, 10, 4), (2, 99, [])]  # a step of no samples is none
    assert check_ledger(frame(steps), 10, num_epochs=3) == []


def test_the_last_epoch_need_not_be_finished_unless_it_is_said_to_be() -> None:
    steps = frame(whole_epochs(2, 6, 2)[:-1])
    assert check_ledger(steps, 6) == []
    (fault,) = check_ledger(steps, 6, num_epochs=2)
    assert fault.startswith("epoch 1: samples never seen: ")


def test_each_kind_of_fault_is_a_sentence_with_its_samples() -> None:
    steps: Steps = [(0, 0, [0, 1, 1]), (0, 0, [7, -1]), (1, 1, [2, 2])]
    assert check_ledger(frame(steps), 10) == [
        "steps recorded more than once: 0",
        "epoch 0: samples never seen: 2, 3, 4, 5, 6 and 2 more",
        "epoch 0: samples seen more than once: 1",
        "epoch 0: samples outside of 0 to 9: -1",
        "epoch 1: samples seen more than once: 2",
    ]


def test_an_epoch_that_is_missing_is_a_fault() -> None:
    steps: Steps = [(0, 0, [0, 1]), (2, 1, [0, 1])]
    expected = ["epoch 1: samples never seen: 0, 1"]
    assert check_ledger(frame(steps), 2) == expected
    assert check_ledger(frame([]), 2, num_epochs=1) == ["epoch 0: samples never seen: 0, 1"]
    assert check_ledger(frame([]), 2) == []


def test_a_ledger_has_one_writer(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    with pytest.raises(PipelineError, match="expected a run that no process is in"):
        Ledger(tmp_path)
    ledger.close()
