"""`cp`: files and directories between this machine and nodes."""

from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from hermes_nodes.cli.home import client
from hermes_nodes.cli.interrupts import interrupts
from hermes_nodes.cli.options import Json, command
from hermes_nodes.cli.output import print_error, print_json, say_note
from hermes_nodes.cli.progress import bar
from hermes_nodes.errors import GatewayLost, HermesNodesError, NodeDisconnected
from hermes_nodes.text import printable

if TYPE_CHECKING:
    from hermes_nodes.copying.trees import Outcome

#: Words on a command line without a source or without a target.
_TOO_FEW = 1
_GO_ON = "`cp --resume` goes on from what has arrived"


def copy(
    context: typer.Context,
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="SRC... DST",
            help="Local paths or NODE:PATH, one side at least on a node. With a / before its first : it is "
            "local.",
        ),
    ],
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Copy directories with all that is in them.")
    ] = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on from what a broken copy has left, if it is the same."),
    ] = False,
    as_json: Json = False,
) -> int:
    """Copy files to a node, from a node, or from node to node.

    A target is replaced only when all of it has arrived and is the same by its SHA-256. Permissions are
    kept, symbolic links are left out.
    """
    from hermes_nodes.copying.nodes import Nodes  # noqa: PLC0415 - completion and `--help` need none of it
    from hermes_nodes.copying.trees import Copier  # noqa: PLC0415 - the same

    if len(paths) <= _TOO_FEW:
        raise typer.BadParameter("cp takes a source and a target")
    *sources, target = paths
    with interrupts() as caught, closing(bar()) as progress:
        nodes = Nodes(client(context), progress, say_note, caught.fd)
        report = _Report(as_json=as_json)
        return Copier(nodes, report.add, recursive=recursive, resume=resume).run(sources, target)


class _Report:
    """What is said of each file: failures on stderr, with ``as_json`` an object each on stdout."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._hints: set[str] = set()

    def add(self, outcome: "Outcome") -> None:
        if self._as_json:
            print_json(_view(outcome))
        if outcome.error is not None:
            self._say(outcome, outcome.error)

    def _say(self, outcome: "Outcome", error: HermesNodesError) -> None:
        hint = _GO_ON if isinstance(error, GatewayLost | NodeDisconnected) else error.hint
        # Once each: a tree may have a thousand failures of one kind.
        print_error(printable(_sentence(outcome, error.message)), "" if hint in self._hints else hint)
        self._hints.add(hint)


def _sentence(outcome: "Outcome", message: str) -> str:
    """The failure with the file's name in it, as it is typed: a node's own word for it has no node."""
    spots = [outcome.source, outcome.target]
    for spot in spots:
        node, _, path = spot.partition(":")
        message = message.replace(f"node {node!r}: {path!r}", repr(spot))
    return message if any(repr(spot) in message for spot in spots) else f"{outcome.source!r}: {message}"


def _view(outcome: "Outcome") -> dict[str, object]:
    copied, error = outcome.copied, outcome.error
    return {
        "source": outcome.source,
        "target": outcome.target,
        "status": "ok" if error is None else error.call_status,
        "size_bytes": copied.size_bytes if copied else None,
        "bytes_sent": copied.bytes_sent if copied else None,
        "sha256": copied.sha256 if copied else None,
        "error": error.to_wire() if error else None,
    }


APPS = {"cp": command(copy)}
