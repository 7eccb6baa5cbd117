"""`rotate`: a new token for a pairing, while the old one stays good for a while."""

from typing import TYPE_CHECKING, Annotated

import typer

from hermes_nodes.cli.home import change
from hermes_nodes.cli.options import Json, NodeName, command, duration
from hermes_nodes.cli.output import print_data, print_json, say
from hermes_nodes.errors import UnknownNode

if TYPE_CHECKING:
    from hermes_nodes.audit import AuditLog
    from hermes_nodes.tokens import TokenStore


def rotate(
    context: typer.Context,
    name: NodeName,
    grace: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="How long the old token lives at most. Default: 24h."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Give a node a new token, printed once on stdout; the old one dies when the new one is used."""
    seconds = duration(grace)

    def by_itself(store: "TokenStore", trail: "AuditLog") -> dict[str, object]:
        from hermes_nodes import operations  # noqa: PLC0415 - not with a gateway

        request = operations.RotateRequest(seconds)
        return operations.rotate_view(
            *operations.rotate(store, trail, name, request, operations.local_actor())
        )

    made = change(
        context,
        lambda client: client.rotate(name, grace=seconds),
        by_itself,
        without_store=UnknownNode(name),
    )
    if as_json:
        print_json(made)
        return
    print_data(str(made["token"]))
    say(f"{name!r} has a new token; this is its only showing. On that machine, with the token on stdin:")
    say(f"    hermes-nodes node join URL --name {name} --force, then start `hermes-nodes node run` anew")
    if made["old_token_dies_at"]:
        say(f"the old token dies when the new one is used, at the latest at {made['old_token_dies_at']}")


APPS = {"rotate": command(rotate)}
