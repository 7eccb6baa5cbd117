"""`revoke`: end a pairing for good."""

from typing import TYPE_CHECKING

import typer

from hermes_nodes.cli.home import change
from hermes_nodes.cli.options import Json, NodeName, command
from hermes_nodes.cli.output import print_json, say
from hermes_nodes.errors import UnknownNode

if TYPE_CHECKING:
    from hermes_nodes.audit import AuditLog
    from hermes_nodes.tokens import TokenStore


def revoke(context: typer.Context, name: NodeName, as_json: Json = False) -> None:
    """End a pairing: its session closes at once, and its token is never admitted again."""

    def by_itself(store: "TokenStore", trail: "AuditLog") -> dict[str, object]:
        from hermes_nodes import operations  # noqa: PLC0415 - not with a gateway

        return operations.revoke_view(
            operations.revoke(store, trail, name, operations.local_actor()).noted()
        )

    revoked = change(
        context, lambda client: client.revoke(name), by_itself, without_store=UnknownNode(name)
    )
    if as_json:
        print_json(revoked)
    else:
        say(f"revoked {name!r}")


APPS = {"revoke": command(revoke)}
