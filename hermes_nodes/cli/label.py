"""`label`: what a node is called besides its name, for `label:K=V`."""

from typing import TYPE_CHECKING, Annotated

import typer

from hermes_nodes.cli.home import change
from hermes_nodes.cli.options import Json, NodeName, command
from hermes_nodes.cli.output import print_json, say
from hermes_nodes.errors import UnknownNode

if TYPE_CHECKING:
    from hermes_nodes.audit import AuditLog
    from hermes_nodes.tokens import TokenStore


def label(
    context: typer.Context,
    name: NodeName,
    changes: Annotated[list[str], typer.Argument(metavar="K=V|K-...", help="Set a label, or drop it.")],
    as_json: Json = False,
) -> None:
    """Set and drop labels of a node: K=V sets one, K- drops it."""
    wanted = dict(map(_change, changes))

    def by_itself(store: "TokenStore", trail: "AuditLog") -> dict[str, object]:
        from hermes_nodes import operations  # noqa: PLC0415 - not with a gateway

        request = operations.LabelRequest(wanted)
        return operations.label_view(
            operations.label(store, trail, name, request, operations.local_actor())
        )

    labelled = change(
        context, lambda client: client.label(name, wanted), by_itself, without_store=UnknownNode(name)
    )
    if as_json:
        print_json(labelled)
    else:
        labels = labelled["labels"]
        shown = (
            ", ".join(f"{key}={value}" for key, value in labels.items()) if isinstance(labels, dict) else ""
        )
        say(f"{name!r} is labelled {shown}" if shown else f"{name!r} has no labels")


def _change(text: str) -> tuple[str, str | None]:
    key, equals, value = text.partition("=")
    if equals and key:
        return key, value
    if text.endswith("-") and len(text) > 1:
        return text[:-1], None
    raise typer.BadParameter(f"write K=V to set a label or K- to drop it, not {text!r}")


APPS = {"label": command(label)}
