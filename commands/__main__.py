"""Questions about the repository, from the command line: `python -m commands COMMAND`."""

import argparse
import os
import sys
from collections.abc import Callable
from importlib import import_module

from mlops.stage import run_command

# Each is a module of commands; only that of the command given is imported.
COMMANDS = {
    "data": "versions of the data, which of them a run used, and what differs between two",
    "doctor": "what this machine and this clone lack, and what to do about it",
    "prove": "kills a training at random moments, and compares what it ends with",
    "runs": "the runs below runs/: a table, one in full, several side by side, and their removal",
}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m commands", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    parsers = {
        name: commands.add_parser(
            name, help=purpose, description=f"{purpose[0].upper()}{purpose[1:]}."
        )
        for name, purpose in COMMANDS.items()
    }
    chosen = next((word for word in arguments if word in COMMANDS), None)
    if chosen is None:
        parser.parse_args(arguments)  # prints the help, or what is wrong, and exits
        return
    command = import_module(f"commands.{chosen}")
    command.add_arguments(parsers[chosen])
    options = parser.parse_args(arguments)
    run_command(chosen, lambda: answer(command.main, options))


def answer(command: Callable[[argparse.Namespace], None], options: argparse.Namespace) -> None:
    """Run the command; a reader that has seen enough, as `head`, is no fault."""
    try:
        command(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # Python writes what is left when it ends, which must not fail as well.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main(sys.argv[1:])
