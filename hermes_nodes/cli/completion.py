"""`completion`: the script that makes a shell complete commands, options and node names."""

from typing import Annotated, Literal

import typer

from hermes_nodes.cli import COMPLETE_VARIABLE, PROGRAM
from hermes_nodes.cli.options import command
from hermes_nodes.cli.output import print_data


def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], typer.Argument(help="The shell.")],
) -> None:
    """Print a shell's completion script."""
    from typer._completion_shared import get_completion_script  # noqa: PLC0415 - of no other use

    print_data(get_completion_script(prog_name=PROGRAM, complete_var=COMPLETE_VARIABLE, shell=shell))


APPS = {"completion": command(completion)}
