"""The whole trail with its rows told apart: those of the chain, and those that anybody may have written."""

from pathlib import Path

from hermes_nodes.audit import AuditLog, Filter
from hermes_nodes.audit.export import Export, Judge, by_key, by_nothing
from tests.audit.support import Home, write


def marks(path: Path, judge: Judge) -> list[object]:
    with Export(path, Filter(), judge) as trail:
        return [row["chained"] for row in trail.read()]


def put_before(home: Home, line: bytes) -> None:
    home.path.write_bytes(line + home.path.read_bytes())


def test_rows_from_before_the_chain_are_told_from_its_own(path: Path) -> None:
    with AuditLog(path) as log:
        write(log, 0, 2)
    home = Home(path)
    home.write(2, 5)
    assert marks(path, by_key(home.key)) == [False, False, True, True, True]


def test_a_line_that_passes_itself_off_as_a_row_of_the_chain_is_none(path: Path) -> None:
    home, stranger = Home(path), Home(path.with_name("other.log"))
    home.write(0, 3)
    stranger.write(0, 2)
    put_before(home, stranger.path.read_bytes() + b'{"chained": true, "seq": 1}\n')
    assert marks(path, by_key(home.key)) == [False, False, False, True, True, True]


def test_a_row_that_was_changed_is_none_of_the_chain(path: Path) -> None:
    home = Home(path)
    home.write(0, 3)
    home.change(2, lambda line: line.replace(b'"exit_code":1', b'"exit_code":9'))
    assert marks(path, by_key(home.key)) == [True, False, True]


def test_without_the_key_nothing_is_said_of_the_chain(path: Path) -> None:
    home = Home(path)
    home.write(0, 2)
    assert marks(path, by_nothing) == [None, None]
