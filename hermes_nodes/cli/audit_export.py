"""Every row of the trail, of this home or of a gateway that was named, as JSON lines or as a table."""

import csv
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping

from hermes_nodes.audit import Filter
from hermes_nodes.audit.export import Export, Judge, by_key, by_nothing
from hermes_nodes.audit.rows import Row
from hermes_nodes.books import read_chains
from hermes_nodes.cli.output import print_data, say
from hermes_nodes.client import Client
from hermes_nodes.config import Settings
from hermes_nodes.errors import HermesNodesError
from hermes_nodes.keys import find_key, is_store, next_key

_COLUMNS = (*Row.__struct_fields__, "chained")
#: A cell that begins so is a formula to a spreadsheet, which may run programs and send data away
#: (OWASP, "CSV Injection"); the last four are the same signs in full width.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")

Json = dict[str, object]


def rows_here(settings: Settings, match: Filter) -> Iterator[Json]:
    """Those of this home's files."""
    with Export(settings.audit_log_path, match, _judge(settings)) as trail:
        yield from trail.read()
        _tell(trail.unreadable)


def rows_of(gateway: Client, match: Filter) -> Iterator[Json]:
    """Those that its operator may see."""
    unreadable = yield from gateway.audit_export(
        since=match.since, node=match.node, action=match.action, status=match.status
    )
    _tell(unreadable)


def writer(form: str) -> Callable[[Json], object]:
    """What writes a row to stdout, as `jsonl` or as `csv`."""
    return _write_json_line if form == "jsonl" else _csv_writer()


def _judge(settings: Settings) -> Judge:
    key, store = find_key(settings, os.environ), settings.token_store_path
    try:
        if key is None or not is_store(store):
            raise HermesNodesError("the token store or its key is not there")
        stored = read_chains(store, [key, *next_key(settings)])
    except HermesNodesError as error:
        say(f"warning: {error.message}: which rows are of the chain can't be known, and `chained` is null")
        return by_nothing
    return (lambda _: False) if stored is None else by_key(stored[0])


def _tell(unreadable: int) -> None:
    if unreadable:
        say(f"warning: {unreadable} lines of the trail can't be read")


def _write_json_line(row: Json) -> None:
    print_data(json.dumps(row))


def _csv_writer() -> Callable[[Json], object]:
    """The columns are a row's keys; what else a row of an older system holds is left out."""
    table = csv.DictWriter(_Output(), _COLUMNS, extrasaction="ignore", lineterminator=_Output.ending)
    table.writeheader()
    return lambda row: table.writerow(_cells(row))


class _Output:
    """Stdout, with the ends of lines that other commands know.

    To the writer they are CR and LF, as it puts quotes around a cell with one of the two only for that:
    without, a CR in a command would begin another line of the table.
    """

    ending = "\r\n"

    def write(self, line: str) -> int:
        return sys.stdout.write(line.removesuffix(self.ending) + "\n")


def _cells(row: Mapping[str, object]) -> Json:
    return {key: _cell(value) for key, value in row.items()}


def _cell(value: object) -> object:
    """A value that a spreadsheet may open: what would be a formula is text behind an apostrophe."""
    if isinstance(value, bool):
        return json.dumps(value)
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
