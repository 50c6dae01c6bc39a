"""How a stage's script starts and how it fails."""

import sys
from collections.abc import Callable

from mlops.errors import PipelineError


def run_stage(
    name: str, main: Callable[[], None], *, input_faults: tuple[type[Exception], ...] = ()
) -> None:
    """Run a stage's `main` and exit; a `PipelineError` becomes lines on stderr, no traceback.

    So do exceptions of the types `input_faults`, which the domain raises for what a user can put
    right.
    Every line carries the stage's name, since `dvc repro` interleaves the output of many.
    Progress goes to stdout line by line even into a pipe, so that a log can be followed.
    """
    # Under DVC in a batch job stdout is a pipe or a file, which Python would buffer in blocks.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    faults: tuple[type[Exception], ...] = (PipelineError, *input_faults)
    try:
        main()
    except faults as error:
        sys.stdout.flush()
        for line in str(error).splitlines():
            print(f"{name}: {line}", file=sys.stderr)
        sys.exit(1)
