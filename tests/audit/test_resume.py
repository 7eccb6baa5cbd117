"""A chain goes on from wherever power failed, or a process was killed, between a row and its head."""

import hashlib
import hmac
from pathlib import Path

import msgspec
import pytest

from hermes_nodes.audit import AuditLog
from hermes_nodes.audit.chain import Chain, ChainRecord, Chains
from tests.audit.support import SMALL, Home, elsewhere, numbers, read, write

ROWS = 6


@pytest.fixture(params=[100 * SMALL, SMALL + 200], ids=["one file", "three files"])
def home(request: pytest.FixtureRequest, path: Path) -> Home:
    return Home(path, max_bytes=request.param)


@pytest.mark.parametrize("saved", range(ROWS + 1))
def test_rows_past_the_head_in_the_store_are_taken_up(home: Home, saved: int) -> None:
    home.write(0, saved)
    home.write(saved, ROWS, saves=False)
    home.write(ROWS, ROWS + 2)
    assert (home.report().damage, home.report().rows) == (None, ROWS + 2)
    assert numbers(read(home.path)) == [*range(ROWS + 2)]


@pytest.mark.parametrize("saved", [0, 3])
def test_power_may_fail_at_every_byte_between_a_row_and_its_head(path: Path, saved: int) -> None:
    home = Home(path)
    home.write(0, saved)
    chains, whole = home.chains, path.stat().st_size
    home.write(saved, saved + 2, saves=False)
    content = path.read_bytes()
    for size in range(whole, len(content)):
        path.write_bytes(content[:size])
        home.chains = chains
        kept = content[:size].count(b"\n")
        home.write(9, 10)
        report = home.report()
        assert (report.damage, report.rows, report.has_half_row) == (None, kept + 1, False)
        assert numbers(read(path)) == [*range(kept), 9]


def test_power_may_fail_between_a_rotation_and_the_row_after_it(path: Path) -> None:
    home = Home(path, max_bytes=SMALL + 200)
    home.write(0, 2)
    home.write(2, 3, saves=False)
    path.unlink()  # the name had not reached the disk
    home.write(3, 5)
    assert (home.report().damage, home.report().rows) == (None, 4)


def test_half_a_row_of_somebody_else_stays_where_the_head_is_not_found(home: Home) -> None:
    home.write(0, 3)
    content = home.path.read_bytes()
    home.path.write_bytes(content.replace(b'"ok"', b'"no"') + b'{"half')
    home.write(3, 5)
    assert b'{"half\n' in home.lines()
    assert home.damage().kind == "edited"


def test_a_store_older_than_the_trail_catches_up(home: Home) -> None:
    home.write(0, 2)
    older = home.chains
    home.write(2, ROWS)
    home.chains = older
    home.write(ROWS, ROWS + 2)
    assert home.report().rows == ROWS + 2


def test_only_rows_that_follow_are_taken_up(home: Home) -> None:
    home.write(0, 3)
    home.write(3, 5, saves=False)
    home.change(4, lambda line: b"no row\n" + line)
    home.write(5, 7)
    damage = home.damage()
    assert (damage.kind, home.chains.current.seq) == ("added", 7)


def test_a_replayed_row_at_the_end_does_not_hide_the_head(home: Home) -> None:
    home.write(0, 3)
    home.write(3, 5, saves=False)
    home.change(5, lambda line: line + home.lines()[0])
    home.write(5, 7)
    assert (home.damage().kind, home.damage().seq, home.chains.current.seq) == ("added", 1, 7)


# Another path


def test_a_trail_at_another_path_begins_a_chain_that_names_the_old_ones_head(home: Home) -> None:
    home.write(0, 3)
    (*_, last) = read(home.path)
    home.path = elsewhere(home.path)
    home.write(3, 6)
    first = read(home.path)[0]
    assert (first["seq"], first["prev"]) == (1, last["hash"])
    assert (home.report().damage, home.report().rows) == (None, 3)
    (past,) = home.chains.past
    assert (past.seq, past.hash) == (3, last["hash"])
    assert past.ended_at is not None


def test_a_trail_left_behind_can_still_be_checked(home: Home) -> None:
    old = home.path
    home.write(0, 3)
    home.path = elsewhere(old)
    home.write(3, 6)
    assert home.report(old).ok
    home.path = old
    home.remove(3)
    assert (home.damage().kind, home.damage().seq) == ("tail cut", 3)


def test_a_path_that_comes_back_holds_both_chains(home: Home) -> None:
    here, there = home.path, elsewhere(home.path)
    for number, home.path in enumerate((here, there, here)):
        home.write(3 * number, 3 * number + 3)
    assert (home.report().damage, home.report().rows) == (None, 6)
    assert home.report(there).ok
    content = {file: file.read_bytes() for file in home.files()}
    for seq, copy, kind in [(2, 0, "edited"), (3, 0, "edited"), (1, 1, "edited"), (2, 1, "edited")]:
        home.change(seq, lambda line: line.replace(b'"ok"', b'"error"'), copy=copy)
        assert (home.damage().kind, home.damage().seq) == (kind, seq)
        for file, before in content.items():
            file.write_bytes(before)
    home.remove(3)
    assert (home.damage().kind, home.damage().seq) == ("removed", 3)


def test_a_trail_that_was_moved_with_all_its_files_goes_on(home: Home) -> None:
    home.write(0, 3)
    folder = home.path.parent.rename(home.path.parent.with_name("moved"))
    home.path = folder / home.path.name
    home.write(3, 6)
    assert (home.report().rows, home.chains.past) == (6, [])
    assert home.chains.current.path == str(home.path)


def test_a_chain_without_a_row_only_changes_its_path(path: Path) -> None:
    home = Home(path)
    home.write(0, 0)
    home.path = elsewhere(path)
    home.write(0, 2)
    assert (home.chains.past, home.report().rows) == ([], 2)


def test_a_trail_that_was_removed_goes_on_and_shows_what_is_missing(home: Home) -> None:
    home.write(0, 3)
    for file in home.files():
        file.unlink()
    home.write(3, 5)
    assert read(home.path)[0]["seq"] == 4
    assert (home.damage().kind, home.damage().seq) == ("removed", 1)


# While it runs


def test_a_trail_that_cannot_be_opened_yet_is_resumed_when_it_can(path: Path) -> None:
    home = Home(path)
    home.write(0, 2)
    home.write(2, 4, saves=False)
    path.parent.rename(path.parent.with_name("away"))
    path.parent.write_text("a file")
    chain = Chain(home.key, home.chains)
    with AuditLog(path, chain=chain, lenient=True) as log:
        path.parent.unlink()
        path.parent.with_name("away").rename(path.parent)
        write(log, 4, 6)
        log.sync()
        assert log.settled is not None
        home.save(chain, log.settled)
    assert (home.report().damage, home.report().rows) == (None, 6)


def test_rows_beside_a_device_are_resumed_past_it(tmp_path: Path) -> None:
    path = tmp_path / "trail"
    path.symlink_to("/dev/null")
    chains = Chains(current=ChainRecord(path=str(path), seq=3))
    with AuditLog(path, chain=Chain(b"x" * 32, chains), fsync="never") as log:
        assert log.append(action="start", status="ok").seq == 4


def test_the_hash_is_what_the_documentation_says(path: Path) -> None:

    home = Home(path)
    home.write(0, 3)
    before = bytes(32)
    for line, row in zip(path.read_bytes().splitlines(), read(path), strict=True):
        signed, _, rest = line.rpartition(b',"hash":')
        assert row["prev"] == before.hex()
        before = hmac.new(home.key, before + signed, hashlib.sha256).digest()
        assert msgspec.json.decode(rest[:-1]) == row["hash"] == before.hex()
