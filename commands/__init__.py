"""The commands of `python -m commands`, a module or package each.

It has `command`, made with click, and a docstring whose first line says what it does. Nothing
else names it. Faults of the user are `PipelineError`s, those of the command line click's.
"""

import click
from click.core import ParameterSource

as_json = click.option("--json", "as_json", is_flag=True, help="Print all of it as JSON.")
experiment = click.option("--experiment", metavar="NAME", help="Runs of this one alone.")


def asks_group_itself(context: click.Context) -> bool:
    """Return whether no subcommand is named; raise `UsageError` for options before one."""
    if context.invoked_subcommand is None:
        return True
    for parameter in context.command.params:
        if context.get_parameter_source(parameter.name or "") is not ParameterSource.DEFAULT:
            raise click.UsageError(
                f"{parameter.opts[0]}: expected it after {context.invoked_subcommand}, got it "
                "before; change the order"
            )
    return False
