"""The lines from before a chain, as they were when it began: none can be put among them later."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from hermes_nodes.audit.chain import Head, is_signed, place_of
from hermes_nodes.audit.files import lines_backwards, open_if_there, size_of
from hermes_nodes.audit.lines import Lines, Spot


class Before:
    """Such lines by the files that they are in, which are renamed, and deleted as a whole by retention."""

    def __init__(self) -> None:
        self._hashes: dict[str, hashlib._Hash] = {}
        self._last: dict[str, Spot] = {}

    def add(self, spot: Spot) -> None:
        found = self._hashes.setdefault(spot.file, hashlib.sha256())
        # Half a line is ended by the row that comes after it.
        found.update(spot.line if spot.line.endswith(b"\n") else spot.line + b"\n")
        self._last[spot.file] = spot

    def digests(self) -> list[str]:
        return [found.hexdigest() for found in self._hashes.values()]

    def changed(self, remembered: Sequence[str]) -> Spot | None:
        """The last such line of the first file in which they are others than there were."""
        left = Counter(remembered)
        for file, digest in zip(self._last, self.digests(), strict=True):
            if not left[digest]:
                return self._last[file]
            left[digest] -= 1
        return None


def lines_before(path: Path, key: bytes, start: Head) -> list[str] | None:
    """The digests of what stands before the row after ``start``; None if another row is first."""
    before, lines = Before(), Lines(path)
    for spot in lines:
        place = place_of(spot.line)
        if place is None or not is_signed(key, spot.line, place):
            before.add(spot)
        elif place.seq > start.seq:
            return before.digests() if (place.seq - 1, place.prev) == start else None
    if lines.has_half and (file := open_if_there(path)):
        with file:
            before.add(Spot(str(file.name), 0, next(lines_backwards(file, size_of(file)))))
    return before.digests()
