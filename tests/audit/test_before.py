"""What is there from before the chain stays as it was when the chain began, or `verify` says so."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from hermes_nodes.audit import AuditLog
from tests.audit.support import SMALL, Home, elsewhere, rotated, write

OLDER = b'{"ts": "2026-01-31", "command": "%d"}\n'


@pytest.fixture
def home(path: Path) -> Home:
    """Two files from before the chain, of which the rows begin in the second."""
    path.parent.mkdir()
    path.with_name(f"{path.name}.1").write_bytes(OLDER % 1 + OLDER % 2)
    path.write_bytes(OLDER % 3 + OLDER % 4)
    home = Home(path)
    home.write(0, 3)
    return home


def file_with(path: Path, line: bytes) -> Path:
    return next(file for file in (path, *rotated(path)) if line in file.read_bytes())


def test_lines_that_stay_are_counted_and_no_damage(home: Home) -> None:
    report = home.report()
    assert (report.damage, report.before, report.rows, report.before_checked) == (None, 4, 3, True)


@pytest.mark.parametrize(
    "change",
    [
        lambda line: line + OLDER % 9,
        lambda line: OLDER % 9 + line,
        lambda line: line.replace(b"command", b"COMMAND"),
        lambda _: b"",
        lambda line: line + line,
    ],
    ids=["added behind", "added before", "changed", "removed", "doubled"],
)
@pytest.mark.parametrize("number", [1, 4])
def test_a_line_that_is_put_there_or_changed_is_found(
    home: Home, number: int, change: Callable[[bytes], bytes]
) -> None:
    line = OLDER % number
    file = file_with(home.path, line)
    file.write_bytes(file.read_bytes().replace(line, change(line)))
    damage = home.damage()
    assert (damage.kind, damage.file, damage.seq) == ("edited", str(file), None)
    assert not home.report().ok


def test_a_row_that_passes_itself_off_as_one_of_the_chain_is_found_there(home: Home) -> None:
    stranger = Home(home.path.with_name("other.log"))
    stranger.write(0, 1)
    home.path.write_bytes(stranger.path.read_bytes() + home.path.read_bytes())
    assert home.damage().kind == "edited"


def test_another_file_of_older_lines_is_found(home: Home) -> None:
    home.path.with_name(f"{home.path.name}.2").write_bytes(OLDER % 9)
    assert home.damage().kind == "edited"


def test_a_whole_file_may_have_had_its_time(home: Home) -> None:
    file_with(home.path, OLDER % 1).unlink()
    report = home.report()
    assert (report.damage, report.before) == (None, 2)


def test_rotation_and_a_copy_elsewhere_change_nothing(home: Home) -> None:
    home.write(3, 300)
    with home.opened() as log:
        log.max_bytes = SMALL
        write(log, 300, 310)
    assert len(rotated(home.path)) > 2
    copy = elsewhere(home.path)
    copy.parent.mkdir()
    for file in home.files():
        copy.with_name(file.name).write_bytes(file.read_bytes())
    for report in (home.report(), home.report(copy)):
        assert (report.damage, report.before) == (None, 4)


def test_half_a_line_is_ended_by_the_first_row(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(OLDER % 1 + b'{"half')
    home = Home(path)
    home.write(0, 2)
    report = home.report()
    assert (report.damage, report.before, report.rows) == (None, 2, 2)


def test_a_chain_of_an_older_version_is_remembered_from_its_next_start_on(home: Home) -> None:
    older = msgspec.structs.replace(home.chains.current, before=None)
    home.chains = msgspec.structs.replace(home.chains, current=older)
    assert (home.report().ok, home.report().before_checked) == (True, False)
    home.write(3, 4)
    assert home.chains.current.before is not None
    assert home.report().ok
    home.path.write_bytes(OLDER % 9 + home.path.read_bytes())
    assert home.damage().kind == "edited"


def test_a_chain_without_rows_remembers_what_came_before_its_first(path: Path) -> None:
    home = Home(path)
    home.write(0, 0)
    with AuditLog(path) as log:
        write(log, 0, 2)
    home.write(0, 1)
    report = home.report()
    assert (report.damage, report.before, report.rows) == (None, 2, 1)


def test_a_trail_whose_first_row_is_gone_is_not_taken_for_its_own_past(home: Home) -> None:
    older = msgspec.structs.replace(home.chains.current, before=None)
    home.chains = msgspec.structs.replace(home.chains, current=older)
    home.remove(1)
    home.write(3, 4)
    assert home.chains.current.before is None
    assert home.damage().kind == "removed"
