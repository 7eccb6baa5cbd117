"""`list`: the nodes and how they are."""

import sys
import time
from collections.abc import Callable
from typing import Annotated, Literal

import typer

from hermes_nodes.cli.home import client, paired_names, settings, take_over
from hermes_nodes.cli.options import Json, command
from hermes_nodes.cli.output import Column, print_json, print_table, say
from hermes_nodes.client import Client
from hermes_nodes.errors import GatewayNotRunning
from hermes_nodes.text import printable

State = Literal["connected", "disconnected", "never_seen", "revoked", "expired"]
Nodes = list[dict[str, object]]

_COLUMNS = (
    Column("name", "NAME", 12),
    Column("state", "STATE", 12),
    Column("labels", "LABELS"),
    Column("platform", "PLATFORM"),
    Column("arch"),
    Column("node_version"),
    Column("remote_addr", "ADDRESS"),
    Column("last_seen_at", "LAST SEEN", is_time=True),
)
_STYLES = {"connected": "green", "revoked": "red", "expired": "yellow", "disconnected": "dim"}
#: Seconds between two looks with `--watch`.
_WATCH_EVERY = 1.0
#: Names that a line of talk has room for.
_MOST_NAMED = 10


def list_nodes(
    context: typer.Context,
    target: Annotated[
        str | None,
        typer.Argument(
            help="Names and globs with commas, label:K=V, or all.",
            show_default=False,
            autocompletion=paired_names,
        ),
    ] = None,
    state: Annotated[State | None, typer.Option(help="Only nodes in this state.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Revoked ones too.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Go on showing what changes.")] = False,
    as_json: Json = False,
) -> None:
    """List the nodes."""
    gateway = client(context)
    nodes = _nodes(gateway, target, state, everything=everything, offline=not context.obj.gateway)
    _say_unencrypted(nodes)
    if not watch:
        if as_json:
            print_json(nodes)
        else:
            _show(nodes)
        return
    shown: dict[object, dict[str, object]] = {}
    while True:
        changed = [node for node in nodes if shown.get(node["pairing_id"]) != _steady(node)]
        shown |= {node["pairing_id"]: _steady(node) for node in nodes}
        if as_json:
            for node in changed:
                print_json(node)
        elif changed:
            _show(nodes if sys.stdout.isatty() else changed)
        sys.stdout.flush()
        time.sleep(_WATCH_EVERY)
        nodes = gateway.nodes(target, state=state, everything=everything)


def _nodes(
    gateway: Client, target: str | None, state: str | None, *, everything: bool, offline: bool
) -> Nodes:
    try:
        return gateway.nodes(target, state=state, everything=everything)
    except GatewayNotRunning:
        if not offline:
            raise
    from hermes_nodes import operations  # noqa: PLC0415 - not with a gateway
    from hermes_nodes.tokens import TokenStore  # noqa: PLC0415

    loaded = settings()
    holder = operations.lock_holder(loaded.lock_path) if operations.is_locked(loaded.lock_path) else {}
    if holder.get("role") == "gateway":
        say("warning: a gateway holds this home but does not answer: who is connected is not known")
    else:
        say("no gateway runs on this home: nobody is connected")
        take_over(loaded)
    with TokenStore.read_only(loaded.token_store_path) as store:
        chosen = operations.select(store.pairings(include_revoked=everything or state == "revoked"), target)
    views = [operations.node_view(pairing) for pairing in chosen]
    return operations.visible(views, state=state, everything=everything)


def _say_unencrypted(nodes: Nodes) -> None:
    """Name the nodes that were taken over, and what would give them encryption."""
    if taken := _named(nodes, lambda node: bool(node.get("hash_only"))):
        say(f"not end-to-end encrypted, re-pairing brings that (`hermes-nodes pair --force NAME`): {taken}")
    if plain := _named(nodes, lambda node: node["encrypted"] is False and not node.get("hash_only")):
        say(f"not end-to-end encrypted, as their software does not offer it: {plain}")


def _named(nodes: Nodes, which: Callable[[dict[str, object]], bool]) -> str:
    names = [printable(node["name"]) for node in nodes if which(node)]
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more


def _steady(node: dict[str, object]) -> dict[str, object]:
    """A node without what changes all the time."""
    return {key: value for key, value in node.items() if key not in ("last_seen_at", "calls_in_flight")}


def _show(nodes: Nodes) -> None:
    if not nodes and sys.stdout.isatty():
        say("no nodes; `hermes-nodes pair NAME` adds one")
        return
    print_table(_COLUMNS, nodes, lambda key, value: _STYLES.get(value, "") if key == "state" else "")


APPS = {"list": command(list_nodes)}
