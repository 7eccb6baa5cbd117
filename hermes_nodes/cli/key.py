"""`key rotate`: the token store sealed anew under a new key."""

import os
from typing import TYPE_CHECKING

import typer

from hermes_nodes.cli.home import change, settings
from hermes_nodes.cli.options import Json
from hermes_nodes.cli.output import print_json, say
from hermes_nodes.errors import BadKey

if TYPE_CHECKING:
    from hermes_nodes.audit import AuditLog
    from hermes_nodes.tokens import TokenStore

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="The key of the token store.",
)


@app.callback()
def key() -> None:
    """The key that the token store is sealed with."""


@app.command()
def rotate(context: typer.Context, as_json: Json = False) -> None:
    """Seal every secret of the store anew, under a new key that is saved in the home's .env.

    The old key opens nothing afterwards, but copies and backups that were made before.
    """

    def by_itself(store: "TokenStore", trail: "AuditLog") -> list[str]:
        from hermes_nodes import administration, operations  # noqa: PLC0415 - not with a gateway

        return administration.rotate_key(store, trail, settings(), os.environ, operations.local_actor())

    notes = change(
        context,
        lambda gateway: gateway.rotate_key(),
        by_itself,
        without_store=BadKey("there is no token store yet, and no key", "`hermes-nodes pair` makes both"),
    )
    if as_json:
        print_json({"notes": notes})
    for note in notes:
        say(note)


APPS = {"key": app}
