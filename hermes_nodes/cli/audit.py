"""`audit tail`: the newest rows of the trail, and those that come; `audit verify`; `audit export`."""

import os
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer
from typer._click.core import ParameterSource

from hermes_nodes import config
from hermes_nodes.audit import Filter, Trail
from hermes_nodes.audit.chain import Chains
from hermes_nodes.audit.rows import Action, Status
from hermes_nodes.audit.verify import Report, chains_of, verify_shape
from hermes_nodes.audit.verify import verify as verify_trail
from hermes_nodes.cli.home import client, paired_names
from hermes_nodes.cli.options import Json, duration
from hermes_nodes.cli.output import Column, print_data, print_json, print_table, say
from hermes_nodes.client import Client
from hermes_nodes.errors import FileMissing, Unavailable, UsageError
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
_UNKNOWN = (
    "whether a row was changed together with all that follow it, and whether the last ones are missing, "
    "can't be known; exit status 0 means that the rows fit together, and no more"
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


Node = Annotated[str | None, typer.Option(help="Only rows of this node.", autocompletion=paired_names)]
OneAction = Annotated[Action | None, typer.Option("--action", help="Only this action.")]
OneStatus = Annotated[Status | None, typer.Option("--status", help="Only this status.")]
Since = Annotated[str | None, typer.Option(metavar="DURATION", help="Only rows of the last: 1h.")]


@app.command()
def tail(
    context: typer.Context,
    count: Annotated[int, typer.Option("-n", "--lines", min=0, max=1_000_000, help="How many rows.")] = 10,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with rows as they come.")] = False,
    node: Node = None,
    action: OneAction = None,
    status: OneStatus = None,
    since: Since = None,
    as_json: Json = False,
) -> None:
    """Show the last rows, across rotated files."""
    match = _filter(node, action, status, since)
    if context.obj.gateway:
        found = _asked(client(context), match, count, follow=follow)
    else:
        found = _read(config.load().audit_log_path, match, count, follow=follow)
    for number, rows in enumerate(found):
        _print(rows, as_json=as_json, titled=number == 0)


@app.command()
def export(
    context: typer.Context,
    form: Annotated[
        Literal["jsonl", "csv"], typer.Option("--format", help="One JSON object a line, or a table.")
    ] = "jsonl",
    node: Node = None,
    action: OneAction = None,
    status: OneStatus = None,
    since: Since = None,
) -> None:
    """Print every row that is asked for, old to new, for a program to load."""
    from hermes_nodes.cli import audit_export  # noqa: PLC0415 - `tail` has no use for it

    match = _filter(node, action, status, since)
    if context.obj.gateway:
        rows = audit_export.rows_of(client(context), match)
    else:
        settings = config.load()
        rows = _unless_refused(settings.audit_log_path, audit_export.rows_here(settings, match))
    first = list(islice(rows, 1))  # asked for first: what is refused has printed no title
    write = audit_export.writer(form)
    for row in chain(first, rows):
        write(row)


def _filter(node: str | None, action: str | None, status: str | None, since: str | None) -> Filter:
    seconds = duration(since)
    oldest = None if seconds is None else timestamp(datetime.now(UTC) - timedelta(seconds=seconds))
    return Filter.asked(node=node, action=action, status=status, since=oldest)


@app.command()
def verify(
    context: typer.Context,
    path: Annotated[
        Path | None, typer.Argument(help="Another trail, or a copy. Default: the one of this home.")
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The token store to go by, or a copy of it."),
    ] = None,
    as_json: Json = False,
) -> int:
    """Check that the trail is as it was written, over all its files.

    Exit status 0: every row is there, unchanged and in its place. 1: one is not, and the first is named.
    Without the token store and its key only how the rows fit together is checked: 0 then does not mean
    that nobody has changed them, or cut off the last ones.

    It reads files and asks no gateway: run it on the gateway's machine, or elsewhere on a copy of the trail
    with --store and a copy of the token store.
    """
    _refuse_gateway(context)
    settings = config.load()
    if store is not None and not store.exists():
        raise FileMissing(
            f"there is no token store {store}", "leave --store out to use the one of this home"
        )
    trail = path or settings.audit_log_path
    with _readable(trail):
        report = _verified(trail, store or settings.token_store_path, settings)
    if report.files == 0 and (report.ok or path is not None):
        raise FileMissing(f"there is no trail {trail}", "give the path of one, or set audit_log_path")
    if as_json:
        print_json(msgspec.to_builtins(report))
    else:
        _print_report(report)
    return 0 if report.ok else 1


def _refuse_gateway(context: typer.Context) -> None:
    """What a gateway says of its own trail is no proof, and the files here are another's."""
    if not context.obj.gateway:
        return
    copy = "on a copy: `hermes-nodes audit verify --store tokens.db nodes-audit.log`"
    if context.find_root().get_parameter_source("gateway") is ParameterSource.ENVIRONMENT:
        raise UsageError(
            "HERMES_NODES_GATEWAY is set, and `audit verify` asks no gateway: it reads the trail's files",
            f"`unset HERMES_NODES_GATEWAY` and run it on the gateway's machine, or {copy}",
        )
    raise UsageError(
        "`audit verify` asks no gateway: it reads the trail's files",
        f"run it without --gateway on the gateway's machine, or {copy}",
    )


def _verified(path: Path, store: Path, settings: config.Settings) -> Report:
    from hermes_nodes.books import read_chains  # noqa: PLC0415
    from hermes_nodes.keys import find_key, is_store, next_key  # noqa: PLC0415 - `tail` has no use for these

    key = find_key(settings, os.environ)
    if not is_store(store) or key is None:
        what = "the token key" if is_store(store) else f"the token store {store}"
        say(f"warning: {what} is not there: {_UNKNOWN}")
        return verify_shape(path)
    keys = [key, *next_key(settings)]
    while True:
        stored = read_chains(store, keys)
        if stored is None:
            return verify_trail(path, b"", [])
        report = verify_trail(path, stored[0], chains_of(stored[1], path))
        # What has had its time may have been deleted meanwhile, or the gateway may have begun a new chain.
        if report.ok or not _has_moved_on(stored[1], read_chains(store, keys)):
            return report


def _has_moved_on(before: Chains, stored: tuple[bytes, Chains] | None) -> bool:
    def beginnings(chains: Chains) -> list[tuple[str, int, str]]:
        return [(one.path, one.first_seq, one.first_prev) for one in (*chains.past, chains.current)]

    return stored is not None and beginnings(stored[1]) != beginnings(before)


def _print_report(report: Report) -> None:
    damage = report.damage
    if damage is not None:
        row = "" if damage.seq is None else f", row {damage.seq}"
        print_data(f"{damage.kind}: {damage.file} line {damage.line}{row}: {damage.message}")
        return
    come_to = "are as they were written" if report.with_key else "fit together"
    print_data(f"{report.rows} rows in {report.files} files {come_to}")
    if report.before:
        come_to = "are as they were when it began" if report.before_checked else "were not checked"
        print_data(f"{report.before} lines from before the chain {come_to}")


def _read(path: Path, match: Filter, count: int, *, follow: bool) -> Iterator[list[dict[str, object]]]:
    """The last rows, then each one that comes; raises Unavailable where the system refuses a file."""
    with _readable(path), Trail(path, match) as trail:
        yield trail.tail(count)
        if trail.unreadable:
            say(f"warning: {trail.unreadable} lines of the trail can't be read")
        if follow:
            for row in trail.follow(stop=threading.Event()):
                yield [row]


def _asked(
    gateway: Client, match: Filter, count: int, *, follow: bool
) -> Iterator[list[dict[str, object]]]:
    """The same from a gateway that was named, which gives what its operator may see."""
    rows = gateway.audit_rows(
        count, follow=follow, since=match.since, node=match.node, action=match.action, status=match.status
    )
    if not follow:
        yield list(rows)
        return
    for row in rows:
        yield [row]


def _unless_refused(path: Path, rows: Iterator[dict[str, object]]) -> Iterator[dict[str, object]]:
    with _readable(path):
        yield from rows


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Raises Unavailable where the system refuses a file."""
    try:
        yield
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
        sys.stdout.flush()  # whoever follows in a pipe gets each row as it comes


def _style(key: str, value: str) -> str:
    return _STYLES.get(value, "") if key == "status" else ""


APPS = {"audit": app}
