"""`audit tail`: the newest rows of the trail, and those that come."""

import threading
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from hermes_nodes import config
from hermes_nodes.audit import Filter, Trail
from hermes_nodes.audit.rows import Action, Status
from hermes_nodes.cli.home import paired_names
from hermes_nodes.cli.options import Json, duration
from hermes_nodes.cli.output import Column, print_json, print_table, say
from hermes_nodes.errors import Unavailable
from hermes_nodes.protocol.messages import timestamp

_COLUMNS = (
    Column("ts", "TIME", is_time=True),
    Column("action", "ACTION", 7),
    Column("status", "STATUS", 6),
    Column("node", "NODE", 8),
    Column("actor", "ACTOR", 10),
    Column("exit_code", "EXIT", 4),
    Column("duration_ms"),
    Column("what", "WHAT"),
)
_STYLES = {"ok": "green", "denied": "red", "error": "yellow", "timeout": "yellow"}

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="The audit trail.",
)


@app.callback()
def audit() -> None:
    """The audit trail: who did what, on which node, with what result."""


@app.command()
def tail(
    count: Annotated[int, typer.Option("-n", "--lines", min=0, max=1_000_000, help="How many rows.")] = 10,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with rows as they come.")] = False,
    node: Annotated[
        str | None, typer.Option(help="Only rows of this node.", autocompletion=paired_names)
    ] = None,
    action: Annotated[Action | None, typer.Option(help="Only this action.")] = None,
    status: Annotated[Status | None, typer.Option(help="Only this status.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Only rows of the last: 1h.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the last rows, across rotated files."""
    path = config.load().audit_log_path
    seconds = duration(since)
    oldest = None if seconds is None else timestamp(datetime.now(UTC) - timedelta(seconds=seconds))
    match = Filter(node=node, action=action, status=status, since=oldest)
    for number, rows in enumerate(_read(path, match, count, follow=follow)):
        _print(rows, as_json=as_json, titled=number == 0)


def _read(path: Path, match: Filter, count: int, *, follow: bool) -> Iterator[list[dict[str, object]]]:
    """The last rows, then each one that comes; raises Unavailable where the system refuses a file."""
    try:
        with Trail(path, match) as trail:
            yield trail.tail(count)
            if trail.unreadable:
                say(f"warning: {trail.unreadable} lines of the trail can't be read")
            if follow:
                for row in trail.follow(stop=threading.Event()):
                    yield [row]
    except OSError as error:
        raise Unavailable(
            f"the trail {path} can't be read: {error.strerror}", "run this as the user who runs the gateway"
        ) from error


def _print(rows: Iterable[dict[str, object]], *, as_json: bool, titled: bool) -> None:
    if as_json:
        for row in rows:
            print_json(row)
        return
    shown = [{**row, "what": row.get("command") or row.get("path") or row.get("error")} for row in rows]
    if shown or titled:
        print_table(_COLUMNS, shown, _style, titled=titled)


def _style(key: str, value: str) -> str:
    return _STYLES.get(value, "") if key == "status" else ""


APPS = {"audit": app}
