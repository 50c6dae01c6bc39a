"""How a stage's script starts and how it fails."""

import sys
from collections.abc import Callable

from mlops.errors import PipelineError


def run_stage(name: str, main: Callable[[], None]) -> None:
    """Run a stage's `main` and exit; a `PipelineError` becomes lines on stderr, no traceback.

    Every line carries the stage's name, since `dvc repro` interleaves the output of many.
    Progress goes to stdout line by line even into a pipe, so that a log can be followed.
    """
    # Under DVC in a batch job stdout is a pipe or a file, which Python would buffer in blocks.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        main()
    except PipelineError as error:
        sys.stdout.flush()
        for fault in error.faults:
            for line in fault.splitlines():
                print(f"{name}: {line}", file=sys.stderr)
        sys.exit(1)
