"""Entry points of stages and commands: what may be read, and how they fail."""

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

from mlops.errors import PipelineError
from mlops.files import atomic
from mlops.inputs import StageInputs, stage_inputs
from mlops.processes.signals import StoppedError


def run_stage(
    name: str,
    main: Callable[[StageInputs], None],
    *,
    input_faults: tuple[type[Exception], ...] = (),
) -> None:
    """Run a stage's `main` as `run_command` does, and fail if its inputs changed meanwhile.

    `main` is given the inputs as they are at the start, to check them before it publishes.
    """

    def watched() -> None:
        inputs = stage_inputs(name)
        main(inputs)
        inputs.check()

    run_command(name, watched, input_faults=input_faults)


def run_command(
    name: str, main: Callable[[], None], *, input_faults: tuple[type[Exception], ...] = ()
) -> None:
    """Run `main` and exit; a `PipelineError` becomes lines on stderr, no traceback.

    So do exceptions of the types `input_faults`, which the domain raises for what a user can put
    right.
    Every line carries the name of the stage or command, since `dvc repro` interleaves the output of
    many.
    Progress goes to stdout line by line even into a pipe, so that a log can be followed.
    """
    for stream in (sys.stdout, sys.stderr):
        # Under DVC in a batch job stdout is a pipe or a file, which Python would buffer in blocks.
        # A sign that the terminal's encoding lacks is written as \\u00b1: it ends no stage.
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    faults: tuple[type[Exception], ...] = (PipelineError, *input_faults)
    try:
        main()
    except faults as error:
        _fail(name, str(error))
    except FileNotFoundError as error:
        _fail(name, f"{_place(error)}: expected a file, found none; run dvc repro, which makes it")
    except OSError as error:
        if error.errno in atomic.FULL:
            _fail(
                name,
                f"{_place(error)}: expected room to write, got: {error.strerror}; make room and "
                "run the same command again",
            )
        _fail(name, f"{_place(error)}: {error.strerror or error}; mend that and run again")
    except UnicodeEncodeError as error:
        if error.encoding != sys.getfilesystemencoding():
            raise
        _fail(
            name,
            f"file name '{error.object}': expected a locale that has its signs, got "
            f"{error.encoding}; run export LC_ALL=C.UTF-8, then the same command again",
        )
    except MemoryError:
        _fail(name, "out of memory; lower runtime.workers or the batch size and run again")
    except StoppedError as error:
        _fail(name, str(error), exit_code=error.exit_code)
    except KeyboardInterrupt:
        _fail(name, "interrupted; run the same command again", exit_code=130)


def _fail(name: str, *faults: str, exit_code: int = 1) -> NoReturn:
    sys.stdout.flush()
    for fault in faults:
        for line in fault.splitlines():
            print(f"{name}: {line}", file=sys.stderr)
    sys.exit(exit_code)


def _place(error: OSError) -> str:
    # Polars raises the error of Python without its attributes, the path last in its text.
    return str(error.filename or str(error).splitlines()[0].rsplit(": ", 1)[-1])


def parse_options(description: str | None, **kinds: type) -> argparse.Namespace:
    """Parse the command line of a stage with cells: `parse_options(doc, model=str)`."""
    parser = argparse.ArgumentParser(description=description)
    for option, kind in kinds.items():
        parser.add_argument(f"--{option}", required=True, type=kind)
    return parser.parse_args()
