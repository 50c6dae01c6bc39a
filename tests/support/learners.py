"""A learner that is nothing but what a session asks of one."""

import random
from typing import Any

import numpy as np
import torch


class Weights:
    """A learner that, like a model that is built, draws when it is loaded."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.values = torch.zeros(3)

    def state_dict(self) -> dict[str, Any]:
        return {"values": self.values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        torch.rand(5), random.random(), np.random.random()  # noqa: NPY002
        self.values = state["values"].clone()
