"""Readers of the trail, also while it is written and rotated."""

import os
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from hermes_nodes.audit import AuditLog, Filter, Trail, follow, tail
from tests.audit.support import SMALL, numbers, read, rotated, write
from tests.support import PATIENCE, in_background


class Follower:
    """Runs a generator of rows in a thread, and hands over each row as it comes."""

    def __init__(self, rows: Iterator[dict[str, object]], stop: threading.Event) -> None:
        self.rows: queue.Queue[dict[str, object]] = queue.Queue()
        self._stop = stop
        self._thread = threading.Thread(target=self._run, args=(rows,))
        self._thread.start()

    def _run(self, rows: Iterator[dict[str, object]]) -> None:
        for row in rows:
            self.rows.put(row)

    def take(self, count: int) -> list[object]:
        return [self.rows.get(timeout=PATIENCE)["exit_code"] for _ in range(count)]

    def close(self) -> None:
        self._stop.set()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


@contextmanager
def following(path: Path, match: Filter | None = None) -> Iterator[Follower]:
    stop = threading.Event()
    rows = follow(path, match or Filter(), poll_seconds=0.01, stop=stop)
    with closing(Follower(rows, stop)) as follower:
        yield follower


# Reading


def test_the_tail_is_the_last_matching_rows_over_all_files(path: Path) -> None:
    with AuditLog(path, max_bytes=SMALL) as log:
        for number in range(60):
            log.append(
                action="read" if number % 2 else "exec",
                status="denied" if number % 3 == 0 else "ok",
                node=f"web-{number % 5}",
                exit_code=number,
                ts=f"2026-01-31T12:00:{number:02}.000Z",
            )
    for match, expected in [
        (Filter(), [*range(60)]),
        (Filter(action="read"), [*range(1, 60, 2)]),
        (Filter(status="denied"), [*range(0, 60, 3)]),
        (Filter(node="web-3"), [*range(3, 60, 5)]),
        (Filter(node="web-3", action="read", status="denied"), [3, 33]),
        (Filter(since="2026-01-31T12:00:50"), [*range(50, 60)]),
        (Filter(since="2026-02"), []),
        (Filter(node="web-9"), []),
    ]:
        assert numbers(tail(path, 1000, match=match).rows) == expected
        assert numbers(tail(path, 2, match=match).rows) == expected[-2:]
        assert tail(path, 0, match=match).rows == []


def test_a_trail_that_is_not_there_yet_is_empty(path: Path) -> None:
    assert tail(path, 10).rows == []
    assert read(path) == []


def test_lines_longer_than_a_block_come_whole_from_the_end(path: Path) -> None:
    commands = ["a" * 10, "b" * 300_000, "c" * 65_536, "d"]
    with AuditLog(path) as log:
        for command in commands:
            log.append(action="exec", status="ok", command=command)
    assert [row["command"] for row in tail(path, 4).rows] == commands


def test_lines_that_are_no_json_object_are_passed_over_and_counted(path: Path) -> None:
    path.parent.mkdir()
    lines = [b"", b"{", b"[1]", b"\xff\x00", b"[" * 100_000, b"7" * 5000, b'"text"', b"null"]
    good = [b'{"exit_code":1}', b'{"exit_code":2,"x":NaN}', b"{}"]
    path.write_bytes(b"\n".join([*lines, *good]) + b"\n")
    found = tail(path, 10)
    assert [row.get("exit_code") for row in found.rows] == [1, 2, None]
    assert found.unreadable == 7
    with Trail(path) as trail:
        assert len(list(trail.read())) == 3
        assert trail.unreadable == 7


def test_half_a_surrogate_pair_in_an_old_row_can_be_printed(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b'{"path":"caf\\udce9 \\ud83d\\ude00","error":"caf\xe9"}\n')
    assert tail(path, 1).rows == [{"path": "caf? \U0001f600", "error": "caf\ufffd"}]


def test_the_tail_is_without_gaps_while_files_are_rotated(path: Path) -> None:
    def look() -> None:
        found = numbers(tail(path, 20).rows)
        start = found[0] if found else 0
        assert isinstance(start, int)
        assert found == [*range(start, start + len(found))]

    with AuditLog(path, max_bytes=SMALL) as log, in_background(look):
        write(log, 0, 300)


# Following


def test_following_yields_what_comes_after_it_began_over_rotations(path: Path) -> None:
    with AuditLog(path, max_bytes=SMALL) as log:
        write(log, 0, 5)
        with following(path) as follower:
            write(log, 5, 6)
            assert follower.take(1) == [5]
            write(log, 6, 300)
            assert follower.take(294) == [*range(6, 300)]
    assert follower.rows.empty()


def test_following_a_trail_that_is_not_there_yet_begins_with_its_first_row(path: Path) -> None:
    with following(path) as follower, AuditLog(path, max_bytes=SMALL) as log:
        write(log, 0, 20)
        assert follower.take(20) == [*range(20)]


def test_following_yields_only_what_matches(path: Path) -> None:
    with AuditLog(path) as log, following(path, Filter(node="web-1")) as follower:
        for number in range(10):
            log.append(action="exec", status="ok", node=f"web-{number % 2}", exit_code=number)
        assert follower.take(5) == [1, 3, 5, 7, 9]


def test_following_goes_on_where_the_tail_ended(path: Path) -> None:
    stop = threading.Event()
    with AuditLog(path, max_bytes=SMALL) as log:
        write(log, 0, 10)
        trail = Trail(path)
        assert numbers(trail.tail(4)) == [6, 7, 8, 9]
        write(log, 10, 40)
        stop.set()
        assert numbers(list(trail.follow(stop=stop))) == [*range(10, 40)]


def test_following_goes_on_where_reading_ended(path: Path) -> None:
    stop = threading.Event()
    stop.set()
    with AuditLog(path, max_bytes=SMALL) as log:
        write(log, 0, 10)
        trail = Trail(path)
        assert numbers(list(trail.read())) == [*range(10)]
        write(log, 10, 20)
        assert numbers(list(trail.follow(stop=stop))) == [*range(10, 20)]


def test_tail_then_follow_misses_none_and_doubles_none_while_files_are_rotated(path: Path) -> None:
    stop = threading.Event()
    with AuditLog(path, max_bytes=SMALL) as log:
        writer = threading.Thread(target=write, args=(log, 0, 500))
        writer.start()
        trail = Trail(path)
        seen = numbers(trail.tail(500))
        follower = Follower(trail.follow(poll_seconds=0.001, stop=stop), stop)
        writer.join(PATIENCE)
        follower.close()
    while not follower.rows.empty():
        seen += follower.take(1)
    assert seen == [*range(500)]


@pytest.mark.parametrize("look", [lambda trail: list(trail.read()), lambda trail: trail.tail(9)])
def test_half_a_row_is_kept_back_until_it_is_whole(
    path: Path, look: Callable[[Trail], list[dict[str, object]]]
) -> None:
    stop = threading.Event()
    stop.set()
    AuditLog(path).close()
    trail = Trail(path)
    with path.open("ab", buffering=0) as file, trail:
        file.write(b'{"exit_code":1}\n{"exit_')
        assert look(trail) == [{"exit_code": 1}]
        assert trail.unreadable == 0
        file.write(b'code":2}\n')
        assert list(trail.follow(stop=stop)) == [{"exit_code": 2}]


def test_half_a_row_that_was_taken_back_is_never_shown(path: Path) -> None:
    stop = threading.Event()
    stop.set()
    AuditLog(path).close()
    trail = Trail(path)
    with path.open("r+b", buffering=0) as file, trail:
        file.write(b'{"exit_code":1}\n{"exit_code":2,"com')
        assert numbers(list(trail.read())) == [1]
        file.truncate(16)
        file.seek(16)
        file.write(b'{"exit_code":3}\n{"exit_code":4}\n')
        assert numbers(list(trail.follow(stop=stop))) == [3, 4]
        assert trail.unreadable == 0


def test_half_a_row_left_behind_by_a_rotation_is_counted_once(path: Path) -> None:
    stop = threading.Event()
    stop.set()
    trail = Trail(path)
    assert trail.tail(1) == []
    path.parent.mkdir()
    path.write_bytes(b'{"exit_code":1}\n{"exit_')
    path.rename(path.with_name(path.name + ".20260131T120000000000Z"))
    path.write_bytes(b'{"exit_code":2}\n')
    assert numbers(list(trail.follow(stop=stop))) == [1, 2]
    assert trail.unreadable == 1


def test_following_goes_on_when_the_file_it_reads_is_deleted(path: Path) -> None:
    with AuditLog(path) as log:
        write(log, 0, 5)
        with following(path) as follower:
            write(log, 5, 6)
            assert follower.take(1) == [5]
            path.unlink()
            write(log, 6, 8)
            assert follower.take(2) == [6, 7]


def test_rows_before_the_file_that_was_deleted_are_not_read_again(path: Path) -> None:
    stop = threading.Event()
    stop.set()
    with AuditLog(path, max_bytes=SMALL) as log:
        write(log, 0, 10)
        for file in rotated(path):
            an_hour_ago = file.stat().st_mtime - 3600
            os.utime(file, (an_hour_ago, an_hour_ago))
        trail = Trail(path)
        assert numbers(trail.tail(1)) == [9]
        path.unlink()
        write(log, 10, 20)
    assert numbers(list(trail.follow(stop=stop))) == [*range(10, 20)]


def test_a_file_moved_away_and_back_is_not_read_again(path: Path) -> None:
    elsewhere = path.with_name("elsewhere")
    with AuditLog(path) as log:
        write(log, 0, 3)
        with following(path) as follower:
            for number in range(3, 60):
                path.rename(elsewhere)
                elsewhere.rename(path)
                write(log, number, number + 1)
            assert follower.take(57) == [*range(3, 60)]
    assert follower.rows.empty()


def test_a_trail_that_is_a_fifo_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "trail")
    with pytest.raises(OSError, match="not a regular file"):
        tail(tmp_path / "trail", 1)
