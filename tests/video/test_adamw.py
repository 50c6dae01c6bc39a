"""The optimizer takes torch's own steps, and starts without torch's compiler."""

import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from video.learning.adamw import AdamW

ROOT = Path(__file__).resolve().parents[2]

TRAINS = """
import sys
import torch
from mlops.determinism import make_deterministic
from video.learning.adamw import AdamW
make_deterministic(0, num_threads=1)
model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
optimizer = AdamW(model.parameters(), lr=0.1)
for _ in range(2):
    optimizer.zero_grad()
    model(torch.randn(4, 3)).sum().backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
optimizer.load_state_dict(optimizer.state_dict())
print(*sys.modules)
"""


def trained(kind: type[torch.optim.AdamW]) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    optimizer = kind(model.parameters(), lr=0.05, weight_decay=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.randn(8, 5)).square().sum().backward()
        optimizer.step()
    return model, optimizer


def test_its_steps_are_those_of_torch_bit_for_bit() -> None:
    model, optimizer = trained(AdamW)
    expected, reference = trained(torch.optim.AdamW)
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert optimizer.state_dict().keys() == reference.state_dict().keys()
    states = zip(optimizer.state_dict()["state"].values(), reference.state.values(), strict=True)
    for ours_state, theirs_state in states:
        assert all(torch.equal(ours_state[name], theirs_state[name]) for name in theirs_state)


def test_a_step_builds_no_graph() -> None:
    model, _ = trained(AdamW)
    assert all(parameter.grad_fn is None for parameter in model.parameters())


def test_a_scaler_and_hooks_reach_its_step() -> None:
    model = nn.Linear(2, 1)
    optimizer = AdamW(model.parameters(), lr=0.1)
    calls = []
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    before = model.weight.detach().clone()
    model(torch.ones(1, 2)).sum().backward()
    scaler.step(optimizer)
    assert calls == [1]
    assert not torch.equal(model.weight, before)


def test_training_starts_without_importing_the_compiler() -> None:
    output = subprocess.run(
        [sys.executable, "-c", TRAINS], cwd=ROOT, check=True, text=True, capture_output=True
    )
    modules = set(output.stdout.split())
    assert "torch.optim" in modules
    assert not {"torch._dynamo", "torch._inductor"} & modules
