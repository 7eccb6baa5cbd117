"""The trail's readers: its rows from either end, and as they come."""

import os
import threading
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Self

from hermes_nodes.audit.files import (
    Rotated,
    is_at,
    lines_backwards,
    open_after,
    open_if_there,
    size_of,
    snapshot,
)
from hermes_nodes.audit.rows import EVERYTHING, Filter, Tail, decode


def _end_of_last_line(file: BinaryIO) -> int:
    size = size_of(file)
    return size - len(next(lines_backwards(file, size)))


class Trail:
    """A reader of the trail, with a position: `follow` goes on exactly where `tail` or `read` ended.

    ``unreadable`` counts the lines passed over because they hold no JSON object. Rows written by the
    system this one replaces have other keys, and come as they are. What the system refuses when a
    file is opened is raised as `OSError`.
    """

    def __init__(self, path: str | Path, match: Filter = EVERYTHING) -> None:
        self.path = Path(path)
        self.match = match
        self.unreadable = 0
        # Kept open: as long as it is, no other file can have the same inode.
        self._file: BinaryIO | None = None
        self._offset = 0
        self._marked = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._go_to(None, 0)
        self._marked = False

    def tail(self, n: int) -> list[dict[str, object]]:
        """The last ``n`` rows that match, old to new; reads no more of the files than it must."""
        lines = self._lines_before(self._mark())
        return list(islice(self._rows(lines), n))[::-1]

    def read(self) -> Iterator[dict[str, object]]:
        """Every row that matches, old to new."""
        self._go_to(None, 0)
        self._marked, self.unreadable = True, 0
        return self.new_rows()

    def follow(
        self, *, poll_seconds: float = 0.2, stop: threading.Event | None = None
    ) -> Iterator[dict[str, object]]:
        """Rows that come after `tail`, `read` or else this call, as they come, over rotations.

        Blocks; ends when ``stop`` is set, after the rows that were there by then, and closes this.
        """
        if not self._marked:
            self._mark()
        return self._follow(poll_seconds, stop or threading.Event())

    def _follow(self, poll_seconds: float, stop: threading.Event) -> Iterator[dict[str, object]]:
        with self:
            stopping = False
            while not stopping:
                stopping = stop.is_set()  # asked before reading, so that nothing is left behind
                yield from self.new_rows()
                stop.wait(poll_seconds)

    def new_rows(self) -> Iterator[dict[str, object]]:
        """The rows that have come since `tail`, `read` or the last call of this."""
        while True:
            # Asked before reading: a file that has been replaced gets no more rows.
            final = self._file is None or not is_at(self.path, self._file.fileno())
            yield from self._rows(self._new_lines())
            if not (final and self._step()):
                return

    def _new_lines(self) -> Iterator[bytes]:
        """The whole lines behind the position, which moves along."""
        if self._file is None:
            return
        # From the end first, which empties the buffer: half a row in it may have been cut off since.
        self._file.seek(0, os.SEEK_END)
        self._file.seek(self._offset)
        while (line := self._file.readline()).endswith(b"\n"):
            self._offset += len(line)
            yield line

    def _step(self) -> bool:
        """Moves on to the file after the current one, if there is one by now."""
        following = open_after(self._file, self.path)
        if following is None:
            return False
        if self._file and size_of(self._file) > self._offset:
            self.unreadable += 1  # half a row, which nobody will complete
        self._go_to(following, 0)
        return True

    def _mark(self) -> list[Rotated]:
        """Puts the position behind the last whole row; returns the files before that one."""
        rotated, file = snapshot(self.path)
        while file is None and rotated:  # between a rotation and the first row after it
            file = open_if_there(rotated.pop().path)
        self._go_to(file, _end_of_last_line(file) if file else 0)
        self._marked, self.unreadable = True, 0
        return rotated

    def _go_to(self, file: BinaryIO | None, offset: int) -> None:
        if self._file:
            self._file.close()
        self._file, self._offset = file, offset

    def _lines_before(self, older: list[Rotated]) -> Iterator[bytes]:
        """Every line up to the position, the last one first."""
        if self._file:
            yield from lines_backwards(self._file, self._offset)
        for rotated in reversed(older):
            if file := open_if_there(rotated.path):
                with file:
                    yield from lines_backwards(file, size_of(file))

    def _decoded(self, line: bytes) -> dict[str, object] | None:
        return decode(line)

    def _rows(self, lines: Iterable[bytes]) -> Iterator[dict[str, object]]:
        for line in filter(bytes.strip, lines):
            row = self._decoded(line)
            if row is None:
                self.unreadable += 1
            elif self.match.matches(row):
                yield row


def tail(path: str | Path, n: int, *, match: Filter = EVERYTHING) -> Tail:
    """The last ``n`` matching rows over all files; to follow on from there, use a `Trail`."""
    with Trail(path, match) as trail:
        return Tail(trail.tail(n), trail.unreadable)


def follow(
    path: str | Path,
    match: Filter = EVERYTHING,
    *,
    poll_seconds: float = 0.2,
    stop: threading.Event | None = None,
) -> Iterator[dict[str, object]]:
    """The matching rows appended after this call; see `Trail.follow`."""
    return Trail(path, match).follow(poll_seconds=poll_seconds, stop=stop)
