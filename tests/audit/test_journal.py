"""What is under way is on disk, whole or not at all, in room that is there before it is needed."""

from pathlib import Path

import pytest

from hermes_nodes.audit.journal import BLOCK, END_BYTES, MOST, RESERVE, Entry, Journal
from hermes_nodes.errors import AuditUnwritable
from tests.support import files_limited_to, mode

KEY = b"k" * 32


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "trail.journal"


def left(path: Path) -> list[tuple[bytes, bytes | None]]:
    """What the next start finds."""
    journal = Journal(path, KEY)
    found = journal.left()
    journal.close()
    return [(entry.begun, entry.ended) for entry in found]


def begun(path: Path, *calls: bytes) -> tuple[Journal, list[Entry]]:
    journal = Journal(path, KEY)
    return journal, [journal.begin(call) for call in calls]


def test_it_is_private_and_its_room_is_on_the_disk_from_the_start(no_umask: None, path: Path) -> None:
    Journal(path, KEY).close()
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    assert path.stat().st_size == RESERVE
    assert path.stat().st_blocks * 512 >= RESERVE


def test_what_has_begun_is_there_until_it_is_struck_out(path: Path) -> None:
    journal, (first, second) = begun(path, b'{"a":1}', b'{"b":2}')
    assert left(path) == [(b'{"a":1}', None), (b'{"b":2}', None)]
    journal.strike([first])
    assert left(path) == [(b'{"b":2}', None)]
    journal.strike([second, second])
    assert left(path) == []
    journal.close()


def test_an_end_is_kept_with_its_call(path: Path) -> None:
    journal, (first, second) = begun(path, b"{1}", b"{2}")
    journal.end(second, b"x" * END_BYTES)
    assert left(path) == [(b"{1}", None), (b"{2}", b"x" * END_BYTES)]
    journal.strike([second])
    # Its place is taken by another, which has not ended.
    third = journal.begin(b"{3}")
    assert third.offset == second.offset
    assert left(path) == [(b"{1}", None), (b"{3}", None)]
    journal.strike([first, third])
    journal.close()


@pytest.mark.parametrize("size", [0, 1, 471, 472, 473, 5000, 600_000])
def test_calls_of_every_size_come_back(path: Path, size: int) -> None:
    calls = [b"a", b"b" * size, b"c"]
    journal, entries = begun(path, *calls)
    journal.end(entries[1], b"end")
    assert left(path) == [(b"a", None), (b"b" * size, b"end"), (b"c", None)]
    journal.close()


def test_power_may_fail_at_every_byte_of_an_entry(path: Path) -> None:
    journal, entries = begun(path, b'{"first":1}', b'{"second":2}')
    journal.end(entries[1], b'{"end":1}')
    journal.close()
    content = path.read_bytes()
    start, end = entries[1].offset, entries[1].end_offset
    for size in range(start, end + BLOCK):
        path.write_bytes(content[:size] + bytes(len(content) - size))
        found = left(path)
        assert found[0] == (b'{"first":1}', None)
        assert found[1:] in ([], [(b'{"second":2}', None)], [(b'{"second":2}', b'{"end":1}')])
        assert found[1:] or size < start + 60
        assert len(found[1:]) == 0 or size > start + 40


def test_an_entry_of_somebody_without_the_key_is_none(path: Path) -> None:
    journal = Journal(path, b"other".ljust(32))
    journal.begin(b"{1}")
    journal.close()
    assert left(path) == []


def test_a_call_can_not_look_like_an_entry(path: Path) -> None:
    """Only bytes that JSON does not have begin one; here somebody has put a whole entry into a call."""
    journal, (inner,) = begun(path, b"{inner}")
    copied = path.read_bytes()[: 2 * BLOCK]
    journal.strike([inner])
    outer = journal.begin(b"x" * (BLOCK - 40) + copied)
    assert left(path) == [(outer.begun, None)]
    journal.strike([outer])
    journal.close()


def test_room_is_used_again_and_given_back(path: Path) -> None:
    journal = Journal(path, KEY)
    for _ in range(3):
        entries = [journal.begin(b"x" * 700) for _ in range(1000)]
        assert max(entry.end_offset for entry in entries) < 1000 * 3 * BLOCK
        assert path.stat().st_size <= 4 * RESERVE
        journal.strike(entries[::2])
        again = [journal.begin(b"y" * 700) for _ in range(500)]
        assert {entry.offset for entry in again} == {entry.offset for entry in entries[::2]}
        journal.strike([*entries[1::2], *again])
    journal.close()
    assert left(path) == []
    assert path.stat().st_size == RESERVE


def test_where_there_is_no_more_room_a_call_is_refused_and_the_others_can_end(path: Path) -> None:
    journal = Journal(path, KEY)
    with files_limited_to(RESERVE + 100):
        entries = [journal.begin(b"x" * 700) for _ in range(RESERVE // (3 * BLOCK))]
        with pytest.raises(AuditUnwritable, match="File too large"):
            journal.begin(b"x" * 700)
        for entry in entries:
            journal.end(entry, b"end")
        assert left(path) == [(b"x" * 700, b"end")] * len(entries)
        journal.strike(entries[:1])
        journal.begin(b"x" * 700)
    journal.begin(b"x" * 700)
    journal.close()


def test_what_is_under_way_has_a_bound(path: Path) -> None:
    journal = Journal(path, KEY)
    with pytest.raises(AuditUnwritable, match="too many calls are under way"):
        journal.begin(bytes(MOST))
    journal.begin(b"x")
    journal.close()


@pytest.mark.parametrize("replaced", [True, False])
def test_a_journal_that_somebody_took_away_is_written_again(path: Path, replaced: bool) -> None:
    journal, (_, second, third) = begun(path, b"{1}", b"{2}", b"{3}")
    journal.end(second, b"end")
    journal.strike([third])
    path.unlink()
    if replaced:
        path.write_bytes(b"something else")
    journal.begin(b"{4}")
    assert left(path) == [(b"{1}", None), (b"{2}", b"end"), (b"{4}", None)]
    journal.sync()
    journal.close()


def test_a_folder_that_is_gone_is_one_clear_sentence_and_comes_back(path: Path) -> None:
    journal, (first,) = begun(path, b"{1}")
    path.unlink()
    path.parent.rmdir()
    path.parent.write_text("a file")
    with pytest.raises(AuditUnwritable, match=r"trail\.journal cannot be written: Not a directory"):
        journal.begin(b"{2}")
    with pytest.raises(AuditUnwritable):
        journal.end(first, b"end")
    journal.strike([])
    path.parent.unlink()
    journal.begin(b"{3}")
    assert left(path) == [(b"{1}", b"end"), (b"{3}", None)]
    journal.close()


def test_a_lenient_one_is_opened_when_it_can_be_and_overwrites_nothing(path: Path) -> None:
    journal, _ = begun(path, b"{1}")
    journal.close()
    path.parent.rename(path.parent.with_name("away"))
    path.parent.write_text("a file")
    with pytest.raises(AuditUnwritable):
        Journal(path, KEY)
    journal = Journal(path, KEY, lenient=True)
    with pytest.raises(AuditUnwritable):
        journal.begin(b"{2}")
    path.parent.unlink()
    path.parent.with_name("away").rename(path.parent)
    journal.begin(b"{3}")
    assert [entry.begun for entry in journal.left()] == [b"{1}"]
    assert left(path) == [(b"{1}", None), (b"{3}", None)]
    journal.close()


def test_a_closed_one_refuses_calls(path: Path) -> None:
    journal = Journal(path, KEY)
    journal.close()
    for work in (lambda: journal.begin(b"{1}"), journal.sync):
        with pytest.raises(AuditUnwritable):
            work()
