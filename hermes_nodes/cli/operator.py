"""`operator`: who else may use this gateway, for what, on which nodes."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from hermes_nodes.cli.home import change, client, settings
from hermes_nodes.cli.options import Json, duration
from hermes_nodes.cli.output import Column, print_data, print_json, print_table, say
from hermes_nodes.errors import GatewayNotRunning, UnknownOperator

if TYPE_CHECKING:
    from hermes_nodes.audit import AuditLog
    from hermes_nodes.tokens import TokenStore

_COLUMNS = (
    Column("name", "NAME", 12),
    Column("allow", "ALLOW"),
    Column("nodes", "NODES"),
    Column("expires_at", "EXPIRES", is_time=True),
    Column("created_by", "ADDED BY"),
    Column("created_at", "ADDED", is_time=True),
)
_VERBS = "list, exec, read, write, cp, shell, jobs, pair, revoke, rotate, label, audit, operate"

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Operators: who else may use this gateway.",
)


@app.callback()
def operator() -> None:
    """Operators: who else may use this gateway, for what, on which nodes."""


@app.command()
def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The operator's name.", show_default=False)],
    allow: Annotated[
        str | None,
        typer.Option(metavar="VERBS", help=f"With commas, of: {_VERBS}; or all. Default: list."),
    ] = None,
    nodes: Annotated[
        str | None,
        typer.Option(metavar="TARGET", help="Names and globs with commas, label:K=V. Default: all."),
    ] = None,
    expires: Annotated[str | None, typer.Option(metavar="DURATION", help="When it ends: 30d.")] = None,
    as_json: Json = False,
) -> None:
    """Add an operator: print its token, once, on stdout.

    A plain name in --nodes means the pairing that has it now. pair, label and operate are only to be had
    on all nodes, as they could widen what an operator may reach.
    """
    verbs, seconds = _verbs(allow), duration(expires)

    def by_itself(store: "TokenStore", trail: "AuditLog") -> dict[str, object]:
        from hermes_nodes import administration, operations  # noqa: PLC0415 - not with a gateway

        given = {"allow": verbs, "nodes": nodes, "expires_in": seconds}
        request = administration.OperatorRequest(
            name,
            **{key: value for key, value in given.items() if value is not None},  # type: ignore[arg-type]
        )
        known, token = administration.add_operator(store, trail, request, operations.local_actor())
        return {**administration.operator_view(known.operator), "token": token}

    made = change(
        context,
        lambda gateway: gateway.add_operator(name, allow=verbs, nodes=nodes, expires_in=seconds),
        by_itself,
    )
    if as_json:
        print_json(made)
        return
    print_data(str(made["token"]))
    say(f"added operator {name!r}: {_joined(made['allow'])} on {made['nodes']}. Its token is shown once")
    say("it is used as HERMES_NODES_OPERATOR_TOKEN, with --gateway https://… (`control_listen` opens that)")


@app.command("list")
def list_operators(context: typer.Context, as_json: Json = False) -> None:
    """Show the operators."""
    try:
        found = client(context).operators()
    except GatewayNotRunning:
        if context.obj.gateway:
            raise
        found = _stored()
    if as_json:
        print_json(found)
        return
    print_table(_COLUMNS, [{**one, "allow": _joined(one["allow"])} for one in found], lambda *_: "")


@app.command()
def remove(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The operator's name.", show_default=False)],
    as_json: Json = False,
) -> None:
    """End an operator, and its running calls, at once."""

    def by_itself(store: "TokenStore", trail: "AuditLog") -> dict[str, object]:
        from hermes_nodes import administration, operations  # noqa: PLC0415 - not with a gateway

        removal = administration.remove_operator(store, trail, name, operations.local_actor())
        return administration.operator_view(removal.noted())

    removed = change(
        context,
        lambda gateway: gateway.remove_operator(name),
        by_itself,
        without_store=UnknownOperator(name),
    )
    if as_json:
        print_json(removed)
    else:
        say(f"removed operator {name!r}; whom it has added stays: `hermes-nodes operator list` shows them")


def _verbs(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    if text == "all":
        return tuple(_VERBS.split(", "))
    return tuple(verb.strip() for verb in text.split(",") if verb.strip())


def _joined(values: object) -> str:
    return ",".join(map(str, values)) if isinstance(values, list) else ""


def _stored() -> list[dict[str, object]]:
    """The operators, without a gateway to ask."""
    from hermes_nodes import administration  # noqa: PLC0415 - not with a gateway
    from hermes_nodes.operator_table import OperatorTable  # noqa: PLC0415
    from hermes_nodes.tokens import TokenStore  # noqa: PLC0415

    say("no gateway runs on this home")
    with TokenStore.read_only(settings().token_store_path) as store:
        return [administration.operator_view(one) for one in OperatorTable(store).all()]


APPS: Mapping[str, typer.Typer] = {"operator": app}
