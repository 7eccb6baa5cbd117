"""`read` and `write`: a file's content to stdout, from stdin."""

from typing import Annotated, Literal

import typer

from hermes_nodes.cli.home import client
from hermes_nodes.cli.interrupts import interrupts
from hermes_nodes.cli.options import NodeName, checked, command
from hermes_nodes.cli.output import say_note, write_all

_STDIN_FD, _STDOUT_FD = 0, 1

FilePath = Annotated[
    str, typer.Argument(metavar="PATH", help="On the node: absolute, or relative to its user's home.")
]


def read(context: typer.Context, node: NodeName, path: FilePath) -> None:
    """Print a file of a node."""

    def output(piece: memoryview) -> None:
        write_all(_STDOUT_FD, piece)

    with interrupts() as caught:
        client(context).read(node, path, output, watch=(_STDOUT_FD,), interrupt=caught.fd, note=say_note)


def write(
    context: typer.Context,
    node: NodeName,
    path: FilePath,
    mode: Annotated[
        Literal["overwrite", "create", "append"],
        typer.Option(help="create: fail if it is there. append: at its end."),
    ] = "overwrite",
    perm: Annotated[
        str | None,
        typer.Option(metavar="OCTAL", help="Permissions: 0644. Default: those it has, else the umask's."),
    ] = None,
) -> None:
    """Write stdin to a file of a node; it takes effect only when all of it has arrived."""
    bits = None if perm is None else checked(_octal, perm)
    with interrupts() as caught:
        client(context).write(
            node, path, _STDIN_FD, mode=mode, perm=bits, interrupt=caught.fd, note=say_note
        )


def _octal(text: str) -> int:
    try:
        bits = int(text, 8)
    except ValueError:
        bits = -1
    if not 0 <= bits <= 0o7777:  # noqa: PLR2004 - all the bits there are
        raise ValueError(f"{text!r} are no permissions; write them as 0644")
    return bits


APPS = {"read": command(read), "write": command(write)}
