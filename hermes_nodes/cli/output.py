"""What commands print: data on stdout, talk on stderr, tables and colours only on a terminal."""

import base64
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from hermes_nodes.cli import PROGRAM
from hermes_nodes.text import printable


def print_error(message: str, hint: str = "") -> None:
    say(f"error: {message}")
    if hint:
        say(f"hint: {hint}")


def say(sentence: str) -> None:
    """A line of talk, on stderr."""
    with suppress(OSError):  # nobody listens
        print(f"{PROGRAM}: {sentence}", file=sys.stderr, flush=True)  # noqa: T201 - the CLI speaks


def say_note(text: str) -> None:
    """What the gateway has to say while a call runs."""
    say(f"note: {text}")


def print_data(line: str) -> None:
    """A line of the asked-for data, on stdout."""
    print(line)  # noqa: T201 - the CLI's job


def print_json(value: object) -> None:
    """One JSON document; one line, so that it can be one of many."""
    # In ASCII: no locale lacks a sign of it, and a terminal's control characters stay escaped.
    print_data(json.dumps(_sound(value), default=str))
    sys.stdout.flush()


def _sound(value: object) -> object:
    """The same without half characters, which Python has for bytes that are not UTF-8: no JSON has them."""
    match value:
        case str():
            return value.encode("utf-8", "backslashreplace").decode()
        case Mapping():
            return {_sound(key): _sound(item) for key, item in value.items()}
        case list() | tuple():
            return [_sound(item) for item in value]
        case _:
            return value


def print_facts(facts: Mapping[str, object]) -> None:
    """One key and its value a line."""
    width = max(map(len, facts))
    for key, value in facts.items():
        print_data(f"{key:<{width}}  {_cell(value)}")


def bytes_fields(name: str, value: bytes) -> dict[str, str | None]:
    """Output as JSON has it: text where it is UTF-8, else null and base64 beside it."""
    try:
        return {name: value.decode("utf-8")}
    except UnicodeDecodeError:
        return {name: None, f"{name}_b64": base64.b64encode(value).decode()}


class Column(NamedTuple):
    """One column of a table; a terminal gets only those that have a ``title``, at least ``width`` wide."""

    key: str
    title: str = ""
    width: int = 0
    is_time: bool = False


#: Characters of a time down to its second.
_TIME_CHARS = 19
#: Characters of the last column that a line of a table has room for at least.
_LEAST_LAST = 20
Style = Callable[[str, str], str]


def print_table(
    columns: Sequence[Column],
    rows: Sequence[Mapping[str, object]],
    style: Style = lambda *_: "",
    *,
    titled: bool = True,
) -> None:
    """Rows as a table on a terminal, as tab-separated lines of all columns elsewhere.

    ``style`` gives rich's style for a key and its value.
    """
    if sys.stdout.isatty():
        _print_terminal_table([column for column in columns if column.title], rows, style, titled=titled)
        return
    for row in rows:
        print_data("\t".join(_cell(row.get(column.key)) for column in columns))


def _print_terminal_table(
    columns: Sequence[Column], rows: Sequence[Mapping[str, object]], style: Style, *, titled: bool
) -> None:
    from rich.console import Console  # noqa: PLC0415 - only a terminal needs it, and it takes 50 ms to load
    from rich.measure import Measurement  # noqa: PLC0415
    from rich.table import Column as RichColumn  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    headers = [RichColumn(column.title, min_width=column.width, no_wrap=True) for column in columns]
    headers[-1].no_wrap, headers[-1].overflow = False, "fold"
    table = Table(*headers, box=None, pad_edge=False, show_header=titled, header_style="bold")
    for row in rows:
        cells = [(column.key, _terminal_cell(column, row)) for column in columns]
        table.add_row(*(Text(value, style=style(key, value)) for key, value in cells))
    # Without colours: no bold face either, which is an escape code as well.
    console = Console(color_system=None if os.environ.get("NO_COLOR") else "auto")
    # Nothing is cut: the last column is folded, and what is wider even so is broken by the terminal.
    natural = Measurement.get(console, console.options.update(max_width=10_000), table).maximum
    last = max([len(columns[-1].title), *(len(_terminal_cell(columns[-1], row)) for row in rows)])
    console.width = max(console.width, natural - max(0, last - _LEAST_LAST))
    console.print(table)


def _terminal_cell(column: Column, row: Mapping[str, object]) -> str:
    value = _cell(row.get(column.key))
    if not column.is_time or len(value) < _TIME_CHARS:
        return value
    # 2026-01-31T12:00:00.000Z: month to second of this year, else year to minute; UTC as everywhere.
    shown = value[5:19] if value[:4] == time.strftime("%Y", time.gmtime()) else value[:16]
    return shown.replace("T", " ")


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return printable(",".join(f"{key}={item}" for key, item in value.items())) or "-"
    if isinstance(value, list):
        return printable(", ".join(map(str, value))) or "-"
    return printable(value)


def write_all(fd: int, data: memoryview | bytes) -> None:
    """Every byte to a descriptor, now."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
