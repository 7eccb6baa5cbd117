"""`shell`: a terminal on a node, with its user's login shell."""

import typer

from hermes_nodes.cli.home import client
from hermes_nodes.cli.options import NodeName, command
from hermes_nodes.cli.terminal import attend
from hermes_nodes.client import exec_body


def shell(context: typer.Context, node: NodeName) -> int:
    """Open a terminal on a node, as with ssh. `~.` at the beginning of a line leaves it."""
    return attend(client(context), exec_body(node, None))


APPS = {"shell": command(shell)}
