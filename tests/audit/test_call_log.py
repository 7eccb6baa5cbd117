"""A call that has begun has one row, and never two, wherever its gateway is killed and the disk is full."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from hermes_nodes.audit import AuditUnwritable, CallLog, Entry
from hermes_nodes.audit.call_log import journal_path
from hermes_nodes.audit.chain import Chain
from hermes_nodes.audit.log import AuditLog
from tests.audit.support import Home, elsewhere, read, write
from tests.support import files_limited_to

KNOWN: dict[str, object] = {
    "action": "exec",
    "node": "web-1",
    "pairing_id": "p",
    "session_id": "s",
    "actor": "local:me",
    "command": "make",
}
ENDED = {"status": "error", "exit_code": 3, "duration_ms": 7, "bytes_in": 1, "bytes_out": 2}


class Running:
    """What a gateway has of its trail, until it is killed."""

    def __init__(self, trail: AuditLog, calls: CallLog) -> None:
        self.trail = trail
        self.calls = calls

    def begin(self, request_id: str) -> Entry:
        return self.calls.begin(**KNOWN, request_id=request_id)

    def end(self, entry: Entry, request_id: str) -> None:
        self.calls.end(entry, **KNOWN, **ENDED, request_id=request_id)

    def full(self) -> AbstractContextManager[None]:
        """The trail takes no more rows; the journal's room lies before that."""
        return files_limited_to(self.trail.path.stat().st_size + 20)


@contextmanager
def running(home: Home) -> Iterator[Running]:
    """Opened as at a start; left as by a kill: nothing is saved, nothing struck out."""
    chain = Chain(home.key, home.chains)
    with AuditLog(home.path, chain=chain) as trail:
        home.chains = chain.chains
        calls = CallLog(trail, chain)
        try:
            calls.pay()
            calls.recover_elsewhere()
            yield Running(trail, calls)
        finally:
            calls.close()


@pytest.fixture
def home(path: Path) -> Home:
    home = Home(path)
    home.write(0, 40)  # so that a limit to the trail's size leaves room in the journal
    return home


def rows(home: Home) -> list[tuple[object, object, object]]:
    """Of calls: id, status, exit code."""
    found = [row for row in read(home.path) if row["request_id"]]
    assert home.report().ok
    return [(row["request_id"], row["status"], row["exit_code"]) for row in found]


def test_a_call_that_ended_has_its_row_alone(home: Home) -> None:
    with running(home) as gateway:
        gateway.end(gateway.begin("a"), "a")
        gateway.calls.sync()
    for _ in range(2):
        with running(home):
            assert rows(home) == [("a", "error", 3)]


def test_a_call_cut_short_is_unknown_with_all_that_was_known(home: Home) -> None:
    with running(home) as gateway:
        gateway.begin("a")
    for _ in range(3):
        with running(home):
            assert rows(home) == [("a", "unknown", None)]
    row = read(home.path)[-1]
    assert {key: row[key] for key in KNOWN} == KNOWN
    assert (row["error"], row["duration_ms"]) == ("gateway_ended", None)


def test_a_kill_between_row_and_striking_out_makes_no_second_row(home: Home) -> None:
    with running(home) as gateway:
        for name in "abc":
            gateway.end(gateway.begin(name), name)
        gateway.begin("d")
    expected = [("a", "error", 3), ("b", "error", 3), ("c", "error", 3), ("d", "unknown", None)]
    for _ in range(3):
        with running(home):
            assert rows(home) == expected


def test_a_kill_during_recovery_makes_no_second_row(home: Home) -> None:
    with running(home) as gateway:
        for name in "abc":
            gateway.begin(name)
    content = home.path.read_bytes()
    with running(home):
        pass
    after = home.path.read_bytes()
    journal = journal_path(home.path).read_bytes()
    expected = [(name, "unknown", None) for name in "abc"]
    for size in range(len(content), len(after) + 1, 7):
        home.path.write_bytes(after[:size])
        journal_path(home.path).write_bytes(journal)
        with running(home):
            assert rows(home) == expected


def test_a_row_of_somebody_else_does_not_stand_for_a_call(home: Home) -> None:
    with running(home) as gateway:
        gateway.begin("a")
    with home.path.open("ab") as file:
        file.write(b'{"ts":"2026","seq":41,"request_id":"a","status":null}\n')
    with running(home):
        pass
    assert [row["status"] for row in read(home.path)[-2:]] == [None, "unknown"]


def test_a_full_disk_keeps_the_end_and_refuses_the_next_call(home: Home) -> None:
    with running(home) as gateway:
        entry = gateway.begin("a")
        with gateway.full():
            gateway.end(entry, "a")
            with pytest.raises(AuditUnwritable, match="File too large"):
                gateway.begin("b")
        assert rows(home) == []
        gateway.end(gateway.begin("c"), "c")
        assert rows(home) == [("a", "error", 3), ("c", "error", 3)]
        gateway.calls.sync()
    with running(home):
        assert len(rows(home)) == 2


def test_an_end_that_was_kept_outlives_a_kill(home: Home) -> None:
    with running(home) as gateway:
        entry = gateway.begin("a")
        with gateway.full():
            gateway.end(entry, "a")
    with running(home):
        assert rows(home) == [("a", "error", 3)]
    assert read(home.path)[-1]["duration_ms"] == 7


def test_a_full_disk_at_the_start_loses_nothing(home: Home) -> None:
    with running(home) as gateway:
        gateway.begin("a")
    with files_limited_to(home.path.stat().st_size + 20), pytest.raises(AuditUnwritable), running(home):
        pass
    with running(home):
        assert rows(home) == [("a", "unknown", None)]


def test_a_folder_that_is_gone_refuses_calls_and_keeps_ends(home: Home) -> None:
    logs, away = home.path.parent, home.path.parent.with_name("away")
    with running(home) as gateway:
        entry = gateway.begin("a")
        logs.rename(away)
        logs.write_text("a file")
        with pytest.raises(AuditUnwritable, match="Not a directory"):
            gateway.begin("b")
        gateway.end(entry, "a")
        logs.unlink()
        away.rename(logs)
        gateway.calls.pay()
        assert rows(home) == [("a", "error", 3)]


def test_what_was_under_way_at_another_path_has_its_row_at_the_new_one(home: Home) -> None:
    with running(home) as gateway:
        gateway.end(gateway.begin("a"), "a")
        gateway.begin("b")
        save(gateway, home)
    home.path = elsewhere(home.path)
    for _ in range(2):
        with running(home) as gateway:
            save(gateway, home)
            assert rows(home) == [("b", "unknown", None)]


def save(gateway: Running, home: Home) -> None:
    gateway.trail.sync()
    assert gateway.trail.chain is not None
    assert gateway.trail.settled is not None
    home.save(gateway.trail.chain, gateway.trail.settled)


def test_rows_that_are_not_on_the_disk_yet_stay_in_the_journal(home: Home) -> None:
    with running(home) as gateway:
        gateway.end(gateway.begin("a"), "a")
        home.path.write_bytes(b"")  # as a power failure may leave it
    with running(home):
        pass
    assert [row["status"] for row in read(home.path)] == ["unknown"]


def test_other_rows_do_not_matter(home: Home) -> None:
    with running(home) as gateway:
        entry = gateway.begin("a")
        write(gateway.trail, 0, 30)
        gateway.end(entry, "a")
        write(gateway.trail, 0, 30)
    with running(home):
        assert rows(home) == [("a", "error", 3)]
