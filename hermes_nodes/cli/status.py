"""`status`: the gateway of this home."""

import typer

from hermes_nodes.cli.home import client
from hermes_nodes.cli.options import Json, command
from hermes_nodes.cli.output import print_facts, print_json


def status(context: typer.Context, as_json: Json = False) -> None:
    """Show the gateway: address, version, what it is doing."""
    facts = client(context).status()
    if as_json:
        print_json(facts)
    else:
        print_facts(facts)


APPS = {"status": command(status)}
