"""`pair`: a new pairing, whose token is shown this once."""

from typing import TYPE_CHECKING, Annotated

import typer

from hermes_nodes.cli.home import change
from hermes_nodes.cli.options import Json, command, duration, pairs
from hermes_nodes.cli.output import print_data, print_json, say

if TYPE_CHECKING:
    from hermes_nodes.audit import AuditLog
    from hermes_nodes.client import Client
    from hermes_nodes.tokens import TokenStore


def pair(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="The node's name.", show_default=False)] = None,
    name_option: Annotated[
        str | None, typer.Option("--name", help="The same, as an option.", show_default=False)
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="K=V", help="A label; may be given again.")
    ] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="DURATION", help="When the pairing ends, from now: 30d.")
    ] = None,
    first_use_within: Annotated[
        str | None, typer.Option(metavar="DURATION", help="It ends unless it is used within this: 1h.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Revoke a pairing of this name first.")] = False,
    as_json: Json = False,
) -> None:
    """Pair a node: print its token, once, on stdout."""
    if (name is None) == (name_option is None):
        raise typer.BadParameter("give one name")
    chosen = name or name_option or ""
    labels = pairs(label or [], "--label")
    expires_in, use_within = duration(expires), duration(first_use_within)

    def through_gateway(client: "Client") -> dict[str, object]:
        return client.pair(
            chosen, labels=labels, expires_in=expires_in, first_use_within=use_within, force=force
        )

    def by_itself(store: "TokenStore", trail: "AuditLog") -> dict[str, object]:
        from hermes_nodes import operations  # noqa: PLC0415 - not with a gateway

        request = operations.PairRequest(
            name=chosen,
            labels=labels,
            expires_in=expires_in,
            first_use_within=use_within,
            force=force,
        )
        return operations.pair_view(*operations.pair(store, trail, request, operations.local_actor()))

    made = change(context, through_gateway, by_itself)
    if as_json:
        print_json(made)
        return
    print_data(str(made["token"]))
    say(f"paired {chosen!r}. This is its token's only showing. On that machine, with the token on stdin:")
    say(f"    hermes-nodes node join URL --name {chosen} && hermes-nodes node run")


APPS = {"pair": command(pair)}
