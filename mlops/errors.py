"""Errors that a user can correct, each with place, expected, got and remedy.

    PipelineError    faults of the input, the parameters or the environment

Anything else that escapes a stage is a fault of the program and keeps its traceback.
"""

import traceback
from collections.abc import Sequence
from pathlib import Path

CODE = Path(__file__).resolve().parents[1]


class PipelineError(Exception):
    """One or more faults, all of those that could be found, a line each.

    `faults` are sentences of the form "where: expected, got; what to do", without the
    stage's name, which `mlops.stage.run_stage` puts in front of each.
    """

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults: Sequence[str] = faults


def described(error: Exception) -> str:
    """Return type, text and place of an exception in one line, as a bug report needs them.

    The place is the last one in this repository's own code, if the exception came through any.
    """
    places = traceback.extract_tb(error.__traceback__)
    own = [
        place
        for place in places
        if Path(place.filename).is_relative_to(CODE) and "site-packages" not in place.filename
    ]
    place = (own or places)[-1]
    name = Path(place.filename).relative_to(CODE) if own else Path(place.filename).name
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text} (line {place.lineno} of {name})"
