"""What commands print: data on stdout, talk on stderr, tables and colours only on a terminal."""

import base64
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from hermes_nodes.text import printable

PROGRAM = "hermes-nodes"


def print_error(message: str, hint: str = "") -> None:
    say(f"error: {message}")
    if hint:
        say(f"hint: {hint}")


def say(sentence: str) -> None:
    """A line of talk, on stderr."""
    with suppress(OSError):  # nobody listens
        print(f"{PROGRAM}: {sentence}", file=sys.stderr, flush=True)  # noqa: T201 - the CLI speaks


def print_data(line: str) -> None:
    """A line of the asked-for data, on stdout."""
    print(line)  # noqa: T201 - the CLI's job


def print_json(value: object) -> None:
    """One JSON document; one line, so that it can be one of many."""
    print_data(json.dumps(value, ensure_ascii=False, default=str))
    sys.stdout.flush()


def bytes_fields(name: str, value: bytes) -> dict[str, str | None]:
    """Output as JSON has it: text where it is UTF-8, else null and base64 beside it."""
    try:
        return {name: value.decode("utf-8")}
    except UnicodeDecodeError:
        return {name: None, f"{name}_b64": base64.b64encode(value).decode()}


def print_table(
    columns: Sequence[tuple[str, str]],
    rows: Sequence[Mapping[str, object]],
    style: Callable[[str, str], str] = lambda *_: "",
) -> None:
    """Rows as a table on a terminal, as tab-separated lines elsewhere.

    ``columns`` are key and title; ``style`` gives rich's style for a key and its value.
    """
    cells = [[_cell(row.get(key)) for key, _ in columns] for row in rows]
    if not sys.stdout.isatty():
        for line in cells:
            print_data("\t".join(line))
        return
    from rich import box  # noqa: PLC0415 - only a terminal needs it, and it takes 50 ms to load
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(*(title for _, title in columns), box=box.SIMPLE_HEAD, pad_edge=False)
    for line in cells:
        styled = zip(columns, line, strict=True)
        table.add_row(*(Text(value, style=style(key, value)) for (key, _), value in styled))
    Console(no_color=True if os.environ.get("NO_COLOR") else None).print(table)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, Mapping):
        return printable(",".join(f"{key}={item}" for key, item in value.items())) or "-"
    return printable(value)


def write_all(fd: int, data: memoryview | bytes) -> None:
    """Every byte to a descriptor, now."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
