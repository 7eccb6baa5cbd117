"""`session`: the directories and environments that `exec --session` keeps on a node."""

from typing import Annotated

import typer

from hermes_nodes.cli.home import client
from hermes_nodes.cli.options import Json, NodeName
from hermes_nodes.cli.output import print_data, print_json, say
from hermes_nodes.text import printable

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, no_args_is_help=True, pretty_exceptions_enable=False
)


@app.callback()
def session() -> None:
    """Look after what `exec --session NAME` keeps on a node."""


@app.command("list")
def list_sessions(context: typer.Context, node: NodeName, as_json: Json = False) -> None:
    """List the sessions of a node."""
    names = client(context).sessions(node)
    if as_json:
        print_json(names)
        return
    for name in names:
        print_data(printable(name))


@app.command()
def reset(
    context: typer.Context,
    node: NodeName,
    name: Annotated[str, typer.Argument(metavar="SESSION", help="As `session list` shows it.")],
) -> None:
    """Forget a session: the next command under its name starts fresh."""
    client(context).reset_session(node, name)
    say(f"session {name!r} of {node!r} is forgotten")


APPS = {"session": app}
