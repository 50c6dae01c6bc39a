"""AdamW as torch has it, without torch's compiler.

torch.optim imports torch._dynamo, which takes a second of every start, to have the compiler leave
some methods alone, and to mark `step` for it. A training that compiles nothing needs neither.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch


class AdamW(torch.optim.AdamW):
    """The same steps and the same state, bit for bit; not for use within torch.compile.

    What it leaves out is found by looking: with a torch that is written otherwise nothing is left
    out, and all that is lost is the second.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        for name in ("add_param_group", "state_dict", "load_state_dict", "zero_grad"):
            method = getattr(getattr(torch.optim.Optimizer, name), "__wrapped__", None)
            if method is not None and not hasattr(method, _LEFT_ALONE):
                setattr(method, _LEFT_ALONE, method)  # where torch notes that this was arranged
        super().__init__(*args, **kwargs)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        return _STEP(self, closure)


_LEFT_ALONE = "__dynamo_disable"
_STEP: Callable[..., Any] = inspect.unwrap(torch.optim.Adam.step)
