"""Damage is found, at its first row and by its name: in one file, and across a rotation."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from hermes_nodes.audit import AuditLog
from hermes_nodes.audit.chain import Chain, ChainRecord, Chains
from hermes_nodes.audit.verify import verify, verify_shape
from tests.audit.support import SMALL, Home, read, rotated, write

ROWS = 12
#: Bytes of a file of a trail in one file, and in six.
ONE, SIX = 100 * SMALL, SMALL + 200


@pytest.fixture(params=[ONE, SIX], ids=["one file", "six files"])
def home(request: pytest.FixtureRequest, path: Path) -> Home:
    home = Home(path, max_bytes=request.param)
    home.write(0, ROWS)
    assert len(home.files()) == (1 if request.param == ONE else 6)
    return home


def edited(line: bytes) -> bytes:
    return line.replace(b'"status":"ok"', b'"status":"denied"')


# An undamaged trail


def test_an_undamaged_trail_is_counted(home: Home) -> None:
    report = home.report()
    assert (report.ok, report.rows, report.before, report.last_seq) == (True, ROWS, 0, ROWS)
    assert (report.files, report.damage, report.with_key) == (len(home.files()), None, True)


def test_rows_after_the_head_in_the_store_are_fine_if_they_follow(home: Home) -> None:
    home.write(ROWS, ROWS + 3, saves=False)
    assert (home.report().ok, home.report().rows) == (True, ROWS + 3)


def test_half_a_row_at_the_end_is_no_damage(home: Home) -> None:
    with home.path.open("ab") as file:
        file.write(b'{"ts":"2026-')
    report = home.report()
    assert (report.ok, report.has_half_row, report.rows) == (True, True, ROWS)


def test_a_trail_without_a_row_is_fine(path: Path) -> None:
    home = Home(path)
    assert home.report().ok
    home.write(0, 0)
    assert (home.report().ok, home.report().rows) == (True, 0)


def test_lines_from_before_the_chain_are_counted_apart(path: Path) -> None:
    path.parent.mkdir()
    path.with_name(path.name + ".2026-01-31").write_text('{"timestamp":"2026"}\n')
    path.write_text('{"timestamp":"2026"}\nno row\n')
    with AuditLog(path) as log:
        write(log, 0, 2)
    home = Home(path)
    home.write(2, 5)
    assert (home.report().ok, home.report().before, home.report().rows) == (True, 5, 3)


def test_a_trail_chained_under_a_key_that_is_lost_is_from_before(home: Home) -> None:
    other = Home(home.path, max_bytes=SIX)
    other.write(20, 25)
    assert (other.report().ok, other.report().before, other.report().rows) == (True, ROWS, 5)


def test_it_is_right_while_rows_are_appended_and_files_rotated(path: Path) -> None:
    home = Home(path, max_bytes=20 * SMALL)
    with home.opened() as log:
        assert log.chain is not None
        writer = threading.Thread(target=write, args=(log, 0, 1500))
        writer.start()
        while writer.is_alive():
            log.sync()
            assert log.settled is not None
            home.save(log.chain, log.settled)
            report = home.report()
            assert report.ok, report.damage
            assert report.rows >= home.chains.current.seq
        writer.join()
    assert home.report().rows == 1500


# Each kind of damage, at each row


@pytest.mark.parametrize("seq", range(1, ROWS + 1))
def test_an_edited_row_is_found(home: Home, seq: int) -> None:
    file, number = home.change(seq, edited)
    damage = home.damage()
    assert (damage.kind, damage.file, damage.line, damage.seq) == ("edited", str(file), number, seq)


@pytest.mark.parametrize("seq", range(1, ROWS))
def test_a_removed_row_is_found(home: Home, seq: int) -> None:
    home.change(seq, lambda _: b"")
    damage = home.damage()
    assert (damage.kind, damage.seq) == ("removed", seq)
    assert (Path(damage.file), damage.line) == home.place(seq + 1)


@pytest.mark.parametrize("count", range(1, ROWS))
def test_a_tail_that_was_cut_is_found(home: Home, count: int) -> None:
    for seq in range(ROWS - count + 1, ROWS + 1):
        home.change(seq, lambda _: b"")
    damage = home.damage()
    assert (damage.kind, damage.seq) == ("tail cut", ROWS - count + 1)
    assert damage.message.endswith(f"missing behind this line: {count}")
    assert (Path(damage.file), damage.line) == home.place(ROWS - count)


def test_a_tail_cut_within_a_row_is_found(home: Home) -> None:
    home.path.write_bytes(home.path.read_bytes()[:-20])
    assert (home.damage().kind, home.damage().seq) == ("tail cut", ROWS)


@pytest.mark.parametrize("seq", range(1, ROWS + 1))
@pytest.mark.parametrize("behind", range(1, ROWS + 1))
def test_a_moved_row_is_found(home: Home, seq: int, behind: int) -> None:
    moved = home.lines()[seq - 1]
    home.change(behind, lambda line: line + moved)
    home.remove(seq, copy=0 if behind >= seq else 1)
    if behind in (seq, seq - 1):
        assert home.report().ok
    else:
        assert (home.damage().kind, home.damage().seq) == ("moved", min(seq, behind + 1))


@pytest.mark.parametrize("seq", range(1, ROWS + 1))
@pytest.mark.parametrize("added", [b"no row\n", b"\n", b'{"ts":"2026-01-31T12:00:00.000Z","seq":3}\n'])
def test_an_added_line_is_found(home: Home, seq: int, added: bytes) -> None:
    file, number = home.change(seq, lambda line: line + added)
    damage = home.damage()
    assert (damage.kind, damage.file, damage.line) == ("added", str(file), number + 1)


@pytest.mark.parametrize("seq", range(1, ROWS + 1))
def test_a_row_that_is_there_twice_was_added(home: Home, seq: int) -> None:
    copied = home.lines()[0]
    file, number = home.change(seq, lambda line: line + copied)
    damage = home.damage()
    assert (damage.kind, damage.file, damage.line, damage.seq) == ("added", str(file), number + 1, 1)


def test_a_row_made_up_under_another_key_was_added(home: Home, tmp_path: Path) -> None:
    elsewhere = tmp_path / "forged" / "trail"
    record = msgspec.structs.replace(home.chains.current, path=str(elsewhere))
    with AuditLog(elsewhere, chain=Chain(b"x" * 32, Chains(current=record))) as log:
        write(log, 99, 100)
    forged = elsewhere.read_bytes()
    assert b'"seq":13,"' in forged
    with home.path.open("ab") as file:
        file.write(forged)
    assert home.damage().kind == "added"


def test_every_byte_counts(path: Path) -> None:
    home = Home(path)
    home.write(0, 4)
    content = path.read_bytes()
    for index in range(len(content)):
        path.write_bytes(content[:index] + bytes([content[index] ^ 1]) + content[index + 1 :])
        report = home.report()
        # Without its newline the last row is one that is still being written: it is missing.
        assert not report.ok, f"byte {index} of {content!r}"


# Whole files


def test_a_rotated_file_that_was_removed_is_found(path: Path) -> None:
    for index in range(5):
        home = Home(path.parent / str(index) / path.name, max_bytes=SIX)
        home.write(0, ROWS)
        home.files()[index].unlink()
        assert (home.damage().kind, home.damage().seq) == ("removed", 2 * index + 1)


def test_a_current_file_that_was_removed_is_a_tail_cut(path: Path) -> None:
    home = Home(path, max_bytes=SIX)
    home.write(0, ROWS)
    path.unlink()
    assert (home.damage().kind, home.damage().seq) == ("tail cut", ROWS - 1)


def test_a_trail_that_is_all_gone_was_removed(home: Home) -> None:
    for file in home.files():
        file.unlink()
    damage = home.damage()
    assert (damage.kind, damage.seq, damage.file) == ("removed", 1, str(home.path))


def test_files_that_changed_places_are_found(path: Path) -> None:
    home = Home(path, max_bytes=SIX)
    home.write(0, ROWS)
    first, second, *_ = home.files()
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    assert (home.damage().kind, home.damage().seq) == ("moved", 1)


def test_an_older_copy_that_ends_with_a_stop_is_called_so(path: Path) -> None:
    home = Home(path)
    with home.opened() as log:
        write(log, 0, 3)
        log.append(action="stop", status="ok")
    older = path.read_bytes()
    home.write(4, 8)
    path.write_bytes(older)
    assert (home.damage().kind, home.damage().seq) == ("older copy", 5)


def test_an_older_copy_of_a_file_that_was_rotated_since_is_called_so(path: Path) -> None:
    home = Home(path, max_bytes=SIX)
    home.write(0, 6)
    older = path.read_bytes()
    home.write(6, ROWS)
    path.write_bytes(older)
    damage = home.damage()
    assert (damage.kind, damage.file, damage.line) == ("older copy", str(path), 1)


def test_what_is_written_after_an_older_copy_was_put_back_does_not_hide_it(path: Path) -> None:
    home = Home(path)
    home.write(0, 3)
    older = path.read_bytes()
    home.write(3, 6)
    path.write_bytes(older)
    home.write(6, 9)
    assert (home.damage().kind, home.damage().seq) == ("removed", 4)


@pytest.mark.parametrize("seq", [2, ROWS - 1, ROWS])
def test_damage_stays_visible_whatever_is_written_after_it(home: Home, seq: int) -> None:
    home.change(seq, edited)
    before = home.damage()
    home.write(ROWS, ROWS + 5)
    home.write(ROWS + 5, ROWS + 7, saves=False)
    home.write(ROWS + 7, ROWS + 9)
    after = home.damage()
    assert (after.kind, after.line, after.seq) == (before.kind, before.line, before.seq)


# Without the store


def test_without_the_store_rows_that_fit_together_are_counted(home: Home) -> None:
    report = verify_shape(home.path)
    assert (report.ok, report.rows, report.with_key) == (True, ROWS, False)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda _: b"", "removed"),
        (lambda line: line + b"no row\n", "added"),
        (lambda _: b"no row\n", "edited"),
    ],
)
def test_without_the_store_what_does_not_fit_together_is_found(
    home: Home, change: Callable[[bytes], bytes], kind: str
) -> None:
    home.change(5, change)
    damage = verify_shape(home.path).damage
    assert damage is not None
    assert damage.kind == kind


def test_without_the_store_a_row_swapped_for_another_is_found(home: Home) -> None:
    home.change(5, lambda line: line.replace(b'"hash":"', b'"hash":"00')[:-5] + b'"}\n')
    damage = verify_shape(home.path).damage
    assert damage is not None
    assert (damage.kind, damage.seq) == ("edited", 6)


# Copies


def test_a_copy_elsewhere_is_checked_with_the_same_store(home: Home, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(home.path.parent, copy)
    assert home.report(copy / home.path.name).ok
    (copy / home.path.name).write_bytes(b"")
    assert not home.report(copy / home.path.name).ok
    assert home.report().ok


def test_a_store_that_knows_of_no_chain_vouches_for_nothing(home: Home) -> None:
    report = verify(home.path, b"", [])
    assert (report.ok, report.rows, report.before) == (True, 0, ROWS)
    assert len(read(home.path)) == ROWS
    assert len(rotated(home.path)) == len(home.files()) - 1


def test_a_chain_record_says_where_its_rows_begin() -> None:
    assert ChainRecord(path="/x").start == ChainRecord(path="/x").head
