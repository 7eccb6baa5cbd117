"""What has had its time is deleted, and is not taken for something that was removed."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hermes_nodes.audit import AuditLog
from hermes_nodes.audit.chain import Chain
from hermes_nodes.audit.retention import delete, expired
from hermes_nodes.clock import timestamp
from tests.audit.support import SMALL, Home, elsewhere, rotated, write

DAYS = 30


def write_at(home: Home, days_ago: int, rows: int) -> None:
    """Rows of a day in the past."""
    with home.opened() as log:
        for number in range(rows):
            ts = timestamp(datetime.now(UTC) - timedelta(days=days_ago))
            log.append(ts=ts, action="exec", status="ok", exit_code=number)


def expire(home: Home) -> list[Path]:
    """What a process does about it; the files that are gone."""
    files, home.chains = expired(home.path, Chain(home.key, home.chains), DAYS)
    delete(files)
    return files


def test_files_past_their_time_go_and_the_rest_verifies(path: Path) -> None:
    home = Home(path, max_bytes=SMALL + 200)
    write_at(home, 40, 6)
    write_at(home, 10, 6)
    files = rotated(path)
    assert expire(home) == files[:3]
    assert rotated(path) == files[3:]
    report = home.report()
    assert (report.damage, report.rows, home.chains.current.first_seq) == (None, 6, 7)
    assert expire(home) == []


def test_a_removal_after_that_is_still_found(path: Path) -> None:
    home = Home(path, max_bytes=SMALL + 200)
    write_at(home, 40, 6)
    write_at(home, 10, 6)
    expire(home)
    rotated(path)[0].unlink()
    assert (home.damage().kind, home.damage().seq) == ("removed", 7)


def test_a_kill_between_the_store_and_the_deletion_is_no_damage(path: Path) -> None:
    home = Home(path, max_bytes=SMALL + 200)
    write_at(home, 40, 6)
    write_at(home, 10, 6)
    _, home.chains = expired(home.path, Chain(home.key, home.chains), DAYS)
    assert (home.report().damage, home.report().rows, home.report().before) == (None, 6, 6)
    assert len(expire(home)) == 3


def test_a_files_own_time_deletes_nothing_that_is_signed(path: Path) -> None:
    home = Home(path, max_bytes=SMALL + 200)
    home.write(0, 6)
    for file in rotated(path):
        os.utime(file, (0, 0))
    assert expire(home) == []


def test_a_row_made_older_does_not_move_the_beginning(path: Path) -> None:
    home = Home(path, max_bytes=SMALL + 200)
    home.write(0, 6)
    for seq in (1, 2):
        home.change(seq, lambda line: b'{"ts":"2001' + line[11:])
    assert expire(home) == []
    assert (home.damage().kind, home.damage().seq) == ("edited", 1)


def test_files_from_before_the_chain_go_by_their_own_time(path: Path) -> None:
    with AuditLog(path, max_bytes=SMALL) as log:
        write(log, 0, 5)
    home = Home(path, max_bytes=SMALL + 200)
    home.write(5, 9)
    older, *_ = rotated(path)
    os.utime(older, (0, 0))
    assert expire(home) == [older]
    assert home.report().ok


def test_chains_that_ended_longer_ago_are_forgotten(path: Path) -> None:
    home = Home(path)
    write_at(home, 40, 2)
    home.path = elsewhere(path)
    home.write(0, 2)
    (past,) = home.chains.past
    assert past.seq == 2
    expire(home)
    assert home.chains.past == [past]
    files, chains = expired(home.path, Chain(home.key, home.chains), -1)
    assert (files, chains.past) == ([], [])


def test_of_an_earlier_chain_at_the_same_path_what_has_had_its_time_goes_too(path: Path) -> None:
    home = Home(path, max_bytes=SMALL + 200)
    write_at(home, 40, 4)
    write_at(home, 10, 2)
    for home.path in (elsewhere(path), path):
        home.write(0, 3)
    assert home.report().ok
    assert len(expire(home)) == 2
    assert (home.report().damage, home.chains.past[0].first_seq) == (None, 5)
