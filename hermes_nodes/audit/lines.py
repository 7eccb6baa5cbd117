"""Every line of a trail with its place, old to new, also while rows are appended and files rotated."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from hermes_nodes.audit.files import open_after


class Spot(NamedTuple):
    """A line, with the name of its file and its number in it, from 1."""

    file: str
    number: int
    line: bytes


class Lines:
    """Half a line at the end of the trail is none: somebody is writing it, or was killed in that."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.files = 0
        self.has_half = False

    def __iter__(self) -> Iterator[Spot]:
        file = open_after(None, self._path)
        while file is not None:
            self.files += 1
            with file:
                number, offset, line = 0, 0, b"\n"
                for number, line in enumerate(file, 1):
                    if line.endswith(b"\n"):
                        yield Spot(file.name, number, line)
                        offset += len(line)
                following = open_after(file, self._path)
                self.has_half = not line.endswith(b"\n") and following is None
                if not line.endswith(b"\n") and following is not None:
                    file.seek(0, 2)  # it may have been completed before the rotation: not from the buffer
                    file.seek(offset)
                    yield Spot(file.name, number, file.readline())
            file = following
