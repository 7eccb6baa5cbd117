"""What a row of the trail holds, how it is written as a line, and which rows are asked for."""

import json
import re
import shlex
from datetime import UTC, datetime
from typing import Literal, Self, get_args

import msgspec

from hermes_nodes.audit.masks import mask
from hermes_nodes.clock import timestamp
from hermes_nodes.errors import UsageError

Action = Literal[
    "exec", "read", "write", "shell", "job", "pair", "revoke", "rotate", "label", "connect",
    "disconnect", "auth", "operator", "key", "settings", "start", "stop",
]  # fmt: skip
Status = Literal[
    "ok", "error", "timeout", "cancelled", "denied", "not_connected", "node_disconnected",
    "rate_limited", "unknown",
]  # fmt: skip
CommandMode = Literal["summary", "full", "none"]

ACTIONS: tuple[str, ...] = get_args(Action)
STATUSES: tuple[str, ...] = get_args(Status)
#: Characters of a wrong value that are shown.
_SHOWN_CHARS = 60
#: A full-date or a date-time of RFC 3339 section 5.6.
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d))?", re.ASCII)
#: Long enough to tell commands apart, short enough to keep a pasted script out of the trail.
SUMMARY_CHARS = 200
#: Any other text in a row; Linux has no path longer (PATH_MAX), and a node may send megabytes.
TEXT_CHARS = 4096
# What JSON may hold raw and a terminal or a pager obeys: DEL, the C1 controls, the separators of
# lines and paragraphs, the marks that turn the direction of writing. The trail is read with `less`.
_OBEYED = re.compile(rb"\x7f|\xc2[\x80-\x9f]|\xe2\x80[\xa8-\xae]|\xe2\x81[\xa6-\xa9]")


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One act. ``ts`` is RFC 3339 in UTC with milliseconds; null is what has no meaning here."""

    ts: str
    seq: int | None = None
    action: Action
    status: Status
    node: str | None = None
    pairing_id: str | None = None
    request_id: str | None = None
    session_id: str | None = None
    actor: str | None = None
    remote_addr: str | None = None
    exit_code: int | None = None
    duration_ms: int | None = None
    error: str | None = None
    command: str | None = None
    path: str | None = None
    bytes_in: int | None = None
    bytes_out: int | None = None
    prev: str | None = None
    hash: str | None = None


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which rows are wanted; ``since`` is a ``ts`` or the beginning of one, compared as text."""

    node: str | None = None
    action: str | None = None
    status: str | None = None
    since: str | None = None

    @classmethod
    def asked(
        cls,
        *,
        action: str | None = None,
        status: str | None = None,
        since: str | None = None,
        **more: object,
    ) -> Self:
        """The rows that somebody asks for; UsageError for what no row can have.

        ``since`` is a date or a time in RFC 3339.
        """
        _check_one_of("action", action, ACTIONS)
        _check_one_of("status", status, STATUSES)
        oldest = None if since is None else _moment(since)
        return cls(action=action, status=status, since=oldest, **more)  # type: ignore[arg-type]

    def matches(self, row: dict[str, object]) -> bool:
        """Whether the row has every value asked for; one without a ``ts`` is after nothing."""
        wanted = (("node", self.node), ("action", self.action), ("status", self.status))
        if any(value is not None and row.get(key) != value for key, value in wanted):
            return False
        ts = row.get("ts")
        return self.since is None or (isinstance(ts, str) and ts >= self.since)


class PairingsFilter(Filter, frozen=True, kw_only=True):
    """The same, and only rows about one of these pairings, by their ids."""

    pairings: frozenset[str]

    def matches(self, row: dict[str, object]) -> bool:
        return row.get("pairing_id") in self.pairings and super().matches(row)


EVERYTHING = Filter()


def _check_one_of(what: str, value: str | None, known: tuple[str, ...]) -> None:
    if value is not None and value not in known:
        raise UsageError(
            f"{value[:_SHOWN_CHARS]!r} is no {what} of a row", f"what there is: {', '.join(known)}"
        )


def _moment(text: str) -> str:
    """A time as rows have it, of a date its first moment in UTC."""
    try:
        moment = datetime.fromisoformat(text) if _MOMENT.fullmatch(text) else None
        if moment is not None:
            return timestamp(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        pass  # a thirteenth month, or a moment before the first year
    raise UsageError(
        f"{text[:_SHOWN_CHARS]!r} is no time that rows could be of", "write it like 2026-01-31T12:00:00Z"
    )


class Tail(msgspec.Struct, frozen=True):
    """The rows, old to new, and how many lines on the way to them were no JSON object."""

    rows: list[dict[str, object]]
    unreadable: int


def summarise_command(command: str | list[str], mode: CommandMode) -> str | None:
    """The text of a command for its row; in a summary without its credentials."""
    if mode == "none":
        return None
    text = command if isinstance(command, str) else shlex.join(command)
    return mask(text)[:SUMMARY_CHARS] if mode == "summary" else text


def make_row(fields: dict[str, object]) -> Row:
    """A row of now; a field that is none or of a wrong type is a `msgspec.ValidationError`."""
    storable = {
        key: _storable(key, value) if isinstance(value, str) else value for key, value in fields.items()
    }
    return msgspec.convert({"ts": timestamp(), **storable}, Row)


def _storable(key: str, value: str) -> str:
    """Text that is valid UTF-8 and of a sane length; a command is cut by `summarise_command`."""
    text = value if key == "command" else value[:TEXT_CHARS]
    return text.encode("utf-8", "backslashreplace").decode()  # half a surrogate pair shows as \udc80


def encode(row: Row) -> bytes:
    """The row as its line, in which nothing is left that a terminal obeys."""
    line = msgspec.json.encode(row)
    if line.isascii() and b"\x7f" not in line:  # most are, and the search takes as long as all the rest
        return line + b"\n"
    return _OBEYED.sub(lambda found: b"\\u%04x" % ord(found[0].decode()), line) + b"\n"


def decode(line: bytes) -> dict[str, object] | None:
    """The row of a line, also of an older system's; None if it is no JSON object."""
    try:
        # An older system's Infinity is a number to Python alone.
        row = json.loads(line.decode(errors="replace"), parse_constant=lambda _: None)
        if b"\\ud" in line.lower():  # half a surrogate pair is good JSON to Python, to nobody else
            row = json.loads(json.dumps(row, ensure_ascii=False).encode(errors="replace"))
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None
