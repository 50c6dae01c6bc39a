"""A checkpoint brings back exactly what was saved, or says why it cannot."""

import pickle
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mlops.determinism import rng_state, set_rng_state
from mlops.errors import PipelineError
from mlops.files.checkpoint_file import load_checkpoint, save_checkpoint
from tests.support.bad_checkpoints import Touches, write_with_checksum

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")

SAVES_WITH_LITTLE_ROOM = """
import resource, signal, sys
from pathlib import Path
import torch
from mlops.files.checkpoint_file import load_checkpoint, save_checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path(sys.argv[1])
save_checkpoint(path, {"step": 0})
state = {"weights": torch.randn(50_000), "small": [torch.randn(9) for _ in range(9)]}
for limit in range(0, 220_000, 3_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        save_checkpoint(path, state)
        print("saved")
    except OSError as error:
        print(error.strerror, error.filename, load_checkpoint(path)["step"] == 0)
"""


def small_state() -> dict[str, Any]:
    return {"model": {"weight": torch.arange(6.0), "count": torch.tensor(3)}, "labels": ["a", "b"]}


def checkpoint_bytes(state: dict[str, Any]) -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "a.pt"
        size_bytes = save_checkpoint(path, state)
        content = path.read_bytes()
    assert size_bytes == len(content)
    return content


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "latest_checkpoint.pt"
    save_checkpoint(path, small_state())
    return path


def trained() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(2):
        step(model, optimizer)
    return model, optimizer


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.linspace(0, 1, 20).reshape(5, 4)).square().sum().backward()
    optimizer.step()


def test_a_state_comes_back_as_it_was(path: Path) -> None:
    state = load_checkpoint(path)
    assert state["labels"] == ["a", "b"]
    assert torch.equal(state["model"]["weight"], torch.arange(6.0))
    assert (state["model"]["count"].item(), state["model"]["count"].dtype) == (3, torch.int64)


def test_a_loaded_optimizer_takes_the_same_next_step(tmp_path: Path) -> None:
    model, optimizer = trained()
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    save_checkpoint(tmp_path / "a.pt", state)
    other, other_optimizer = trained()
    loaded = load_checkpoint(tmp_path / "a.pt")
    other.load_state_dict(loaded["model"])
    other_optimizer.load_state_dict(loaded["optimizer"])
    step(model, optimizer)
    step(other, other_optimizer)
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name


def draw() -> list[Any]:
    """Draw from each generator, an odd count of normal numbers so that one is left over."""
    return [
        torch.rand(3).tolist(),
        torch.randperm(9).tolist(),
        np.random.normal(size=3).tolist(),  # noqa: NPY002
        np.random.randint(1000),  # noqa: NPY002
        random.random(),
        random.gauss(0, 1),
    ]


def test_after_a_restore_all_generators_draw_what_they_would_have_drawn(tmp_path: Path) -> None:
    draw()
    save_checkpoint(tmp_path / "a.pt", {"rng": rng_state(CPU)})
    expected = [draw(), draw()]
    draw()
    set_rng_state(load_checkpoint(tmp_path / "a.pt")["rng"], CPU)
    assert [draw(), draw()] == expected


def test_taking_the_state_of_the_generators_draws_nothing() -> None:
    state = rng_state(CPU)
    expected = draw()
    set_rng_state(state, CPU)
    rng_state(CPU)
    assert draw() == expected


def test_equal_states_give_equal_bytes() -> None:
    assert checkpoint_bytes(small_state()) == checkpoint_bytes(small_state())


def test_a_state_saved_again_after_loading_gives_equal_bytes(tmp_path: Path) -> None:
    model, optimizer = trained()
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": rng_state(CPU),
    }
    (tmp_path / "a.pt").write_bytes(checkpoint_bytes(state))
    loaded = load_checkpoint(tmp_path / "a.pt")
    assert checkpoint_bytes(loaded) == checkpoint_bytes(state)
    model.load_state_dict(loaded["model"])
    optimizer.load_state_dict(loaded["optimizer"])
    again = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "rng": state["rng"]}
    assert checkpoint_bytes(again) == checkpoint_bytes(state)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["one text"] * 2, ["one text", " ".join(["one", "text"])]),
        ([(0.9, 0.99)] * 2, [(0.9, 0.99), tuple([0.9, 0.99])]),  # noqa: C409
        ([[1]] * 2, [[1], [1]]),
        (torch.arange(5.0), torch.arange(10.0)[:5]),
    ],
    ids=["text", "tuple", "list", "tensor"],
)
def test_the_bytes_do_not_show_what_is_one_object_in_memory(one: Any, other: Any) -> None:
    assert checkpoint_bytes({"x": one}) == checkpoint_bytes({"x": other})


def test_another_value_gives_other_bytes() -> None:
    assert checkpoint_bytes({"x": torch.zeros(2)}) != checkpoint_bytes({"x": torch.ones(2)})


def test_a_flipped_bit_anywhere_is_told(path: Path) -> None:
    content = path.read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(PipelineError) as caught:
            load_checkpoint(path)
        (fault,) = caught.value.faults
        assert fault.startswith(f"{path}: expected a checkpoint, got a damaged file (")
        assert fault.endswith("; remove it and run again")


def test_the_file_is_one_that_torch_reads_by_itself(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    assert torch.equal(state["model"]["weight"], torch.arange(6.0))
    mapped = torch.load(path, weights_only=True, mmap=True)
    assert torch.equal(mapped["model"]["weight"], torch.arange(6.0))


def test_many_small_tensors_and_large_ones_come_back(tmp_path: Path) -> None:
    # More small ones than are held back before they are written, and one written piece by piece.
    state = {str(i): torch.full((4000,), float(i)) for i in range(2000)}
    state["large"] = torch.arange(10_000_000.0)
    save_checkpoint(tmp_path / "a.pt", state)
    loaded = load_checkpoint(tmp_path / "a.pt")
    assert loaded.pop("format_version") == 2
    assert all(torch.equal(loaded[name], value) for name, value in state.items())
    assert loaded.keys() == state.keys()


@pytest.mark.parametrize("num_bytes", [60_000, 70_000, 300_000, 3_000_000])
def test_long_texts_in_a_state_come_back_each_time(num_bytes: int, tmp_path: Path) -> None:
    # torch frees the text's bytes while the thread that sums them up may be behind.
    state = {"waiting": "x" * num_bytes, "weights": torch.arange(10_000.0)}
    for _ in range(20):
        save_checkpoint(tmp_path / "a.pt", state)
        loaded = load_checkpoint(tmp_path / "a.pt")
        assert loaded["waiting"] == state["waiting"]
        assert torch.equal(loaded["weights"], torch.arange(10_000.0))


def test_a_disk_that_is_full_in_the_midst_is_told_as_such(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SAVES_WITH_LITTLE_ROOM, str(tmp_path / "a.pt")],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    kinds = set(done.stdout.splitlines())
    assert kinds == {f"File too large {tmp_path / 'a.pt'} True", "saved"}


def test_the_checksum_holds_for_a_table_of_many_tensors(tmp_path: Path) -> None:
    # torch frees the table, which is larger than what is held back, once it is written.
    state = {str(i): torch.full((40,), float(i)) for i in range(2000)}
    for _ in range(3):
        save_checkpoint(tmp_path / "a.pt", state)
        loaded = load_checkpoint(tmp_path / "a.pt")
        assert all(torch.equal(loaded[name], value) for name, value in state.items())


def test_torchs_own_setting_is_left_as_it_was(tmp_path: Path) -> None:
    before = torch.serialization.get_crc32_options()
    save_checkpoint(tmp_path / "a.pt", small_state())
    assert torch.serialization.get_crc32_options() == before


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9, 0.999])
def test_a_file_cut_short_is_refused(share: float, path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(
        PipelineError, match=r"expected a checkpoint, got a damaged file \(.*remove"
    ):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "content",
    [{"format_version": 1}, {"format_version": None}, {"model": 1}, [1]],
    ids=["older", "null", "none", "list"],
)
def test_a_file_of_another_format_is_refused(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    write_with_checksum(content, path)
    with pytest.raises(PipelineError, match=r"a\.pt: expected format version 2, got (1|none); rem"):
        load_checkpoint(path)


def test_a_checkpoint_with_code_in_it_is_refused_and_the_code_not_run(tmp_path: Path) -> None:
    path, trace = tmp_path / "a.pt", tmp_path / "trace"
    write_with_checksum({"format_version": 2, "model": Touches(trace)}, path)
    with pytest.raises(PipelineError, match="expected tensors and plain types, got objects that"):
        load_checkpoint(path)
    assert not trace.exists()


def test_a_file_that_torch_alone_has_written_is_refused(tmp_path: Path) -> None:
    torch.save({"format_version": 2}, tmp_path / "a.pt")
    with pytest.raises(PipelineError, match=r"got a damaged file \(no checksum at its end\); rem"):
        load_checkpoint(tmp_path / "a.pt")


def test_a_bare_pickle_is_refused_and_its_code_not_run(tmp_path: Path) -> None:
    path, trace = tmp_path / "a.pt", tmp_path / "trace"
    path.write_bytes(pickle.dumps(Touches(trace)))
    with pytest.raises(PipelineError, match="expected a checkpoint, got a damaged file"):
        load_checkpoint(path)
    assert not trace.exists()


def test_a_save_that_fails_leaves_the_checkpoint_that_was_there(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(AttributeError, match=r"pickle|local object"):
        save_checkpoint(path, {"model": lambda: None})
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
