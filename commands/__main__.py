"""Questions about the repository, from the command line: `python -m commands COMMAND`."""

import ast
import os
import pkgutil
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import click

import commands
from mlops.stage import run_command


class Commands(click.Group):
    """The modules of this package; only that of the command given is imported."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        names = (module.name for module in pkgutil.iter_modules(commands.__path__))
        return sorted(name for name in names if not name.startswith("_"))

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.list_commands(ctx):
            return None
        command: click.Command = import_module(f"commands.{name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, purpose(name)) for name in self.list_commands(ctx)])


def purpose(name: str) -> str:
    """Return the first line of a command's docstring, without importing the command."""
    spec = find_spec(f"commands.{name}")
    source = Path(spec.origin).read_text("utf-8") if spec and spec.origin else ""
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def main(arguments: list[str]) -> None:
    name = next((word for word in arguments if not word.startswith("-")), "commands")
    run_command(name, lambda: answer(arguments))


def answer(arguments: list[str]) -> None:
    """Run the command; a reader that has seen enough, as `head`, is no fault."""
    group = Commands(help=__doc__)
    try:
        # Not by group.main(), which exits with 1 if the reader of a pipe has gone.
        with group.make_context("python -m commands", arguments) as context:
            group.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit:  # after a help
        pass
    except click.UsageError as error:
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # Python writes what is left when it ends, which must not fail as well.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main(sys.argv[1:])
