"""The ledger tells which samples every step saw."""

import random
from pathlib import Path

import numpy as np
import pytest

from mlops.errors import PipelineError
from mlops.metrics.ledger import Ledger, read_ledger

Steps = list[tuple[int, int, list[int]]]  # epoch, step, samples


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


def test_a_ledger_has_one_writer(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    with pytest.raises(PipelineError, match="expected a run that no process is in"):
        Ledger(tmp_path)
    ledger.close()
