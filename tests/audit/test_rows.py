"""What a row of the trail holds and how it looks in the file."""

import json
from pathlib import Path

import msgspec
import pytest

from hermes_nodes.audit import AuditLog, summarise_command
from hermes_nodes.audit.rows import SUMMARY_CHARS, TEXT_CHARS, Action, Status
from tests.audit.support import read, write

KEYS = [
    "ts", "seq", "action", "status", "node", "pairing_id", "request_id", "session_id", "actor",
    "remote_addr", "exit_code", "duration_ms", "error", "command", "path", "bytes_in",
    "bytes_out", "prev", "hash",
]  # fmt: skip
ACTIONS = [
    "exec", "read", "write", "shell", "job", "pair", "revoke", "rotate", "label", "connect",
    "disconnect", "auth", "operator", "key", "settings", "start", "stop",
]  # fmt: skip
STATUSES = [
    "ok", "error", "timeout", "cancelled", "denied", "not_connected", "node_disconnected",
    "rate_limited", "unknown",
]  # fmt: skip


def test_a_row_has_exactly_the_keys_of_the_contract_in_order_and_null_where_nothing_was_said(
    path: Path,
) -> None:
    with AuditLog(path) as log:
        row = log.append(action="exec", status="ok", node="web-1", command="uptime", exit_code=0)
    written = json.loads(path.read_bytes())
    assert list(written) == KEYS
    said: dict[str, object] = {"ts": row.ts, "action": "exec", "status": "ok", "node": "web-1"}
    said |= {"command": "uptime", "exit_code": 0}
    assert written == {**dict.fromkeys(KEYS), **said}


def test_every_action_and_status_of_the_contract_is_taken(path: Path) -> None:
    assert [*Action.__args__] == ACTIONS  # type: ignore[attr-defined]
    assert [*Status.__args__] == STATUSES  # type: ignore[attr-defined]
    with AuditLog(path) as log:
        for action in ACTIONS:
            for status in STATUSES:
                log.append(action=action, status=status)
    pairs = [(row["action"], row["status"]) for row in read(path)]
    assert pairs == [(action, status) for action in ACTIONS for status in STATUSES]


@pytest.mark.parametrize(
    "wrong", [{"action": "dance"}, {"status": "fine"}, {"exit_code": "0"}, {"colour": "red"}]
)
def test_a_wrong_field_is_refused_and_writes_nothing(path: Path, wrong: dict[str, object]) -> None:
    with AuditLog(path) as log, pytest.raises(msgspec.ValidationError):
        log.append(**{"action": "exec", "status": "ok", **wrong})
    assert path.read_bytes() == b""


def test_nobody_but_the_chain_says_where_a_row_stands(path: Path) -> None:
    with AuditLog(path) as log:
        row = log.append(action="exec", status="ok", seq=7, prev="ab", hash="cd")
    assert (row.seq, row.prev, row.hash) == (None, None, None)


def test_the_time_is_utc_with_milliseconds_and_never_runs_backwards(path: Path) -> None:
    with AuditLog(path) as log:
        write(log, 0, 50)
        given = log.append(action="start", status="ok", ts="2026-01-31T12:00:00.000Z")
    *times, last = [str(row["ts"]) for row in read(path)]
    assert all(len(ts) == len("2026-01-31T12:00:00.000Z") and ts.endswith("Z") for ts in times)
    assert times == sorted(times)
    assert last == given.ts == "2026-01-31T12:00:00.000Z"


@pytest.mark.parametrize(
    "text",
    ["two\nlines\r\n", "\x00\x1b[31m\x7f", "csi \x9b2J", "a\u2028b\u2029c\x85", "\u202eabc\u2066"],
)
def test_text_that_a_terminal_would_obey_stays_one_harmless_line(path: Path, text: str) -> None:
    with AuditLog(path) as log:
        row = log.append(action="exec", status="error", node="web-1", error=text, command=text)
    content = path.read_text()
    assert content.isprintable() is False  # for its newline alone
    assert content.removesuffix("\n").isprintable()
    assert row.error == text
    assert [row["error"] for row in read(path)] == [text]


def test_half_a_surrogate_pair_is_spelled_out(path: Path) -> None:
    with AuditLog(path) as log:
        row = log.append(action="read", status="ok", path="/tmp/caf\udce9")
    assert row.path == r"/tmp/caf\udce9"
    assert [row["path"] for row in read(path)] == [r"/tmp/caf\udce9"]


def test_what_a_node_says_is_cut_but_a_full_command_is_not(path: Path) -> None:
    with AuditLog(path) as log:
        row = log.append(action="exec", status="error", error="e" * 10**6, command="c" * 10**5)
    assert row.error == "e" * TEXT_CHARS
    assert row.command == "c" * 10**5


@pytest.mark.parametrize(
    ("command", "mode", "summary"),
    [
        ("uptime", "summary", "uptime"),
        ("x" * 500, "summary", "x" * SUMMARY_CHARS),
        ("x" * 500, "full", "x" * 500),
        ("uptime", "none", None),
        (["printf", "%s", "two words"], "summary", "printf %s 'two words'"),
        (["printf", "x" * 500], "full", "printf " + "x" * 500),
        (["uptime"], "none", None),
        ([], "summary", ""),
    ],
)
def test_a_command_is_told_as_far_as_the_setting_says(
    command: str | list[str], mode: str, summary: str | None
) -> None:
    assert summarise_command(command, mode) == summary  # type: ignore[arg-type]
