"""Whether a trail is as it was written: every row in its place, none changed, none missing, none added.

The store says where the chain begins and how far it has come; its key tells a row from what somebody wrote.
Without the store only what the rows say of each other can be compared, which whoever edits them can mend.
"""

import hmac
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from hermes_nodes.audit.before import Before
from hermes_nodes.audit.chain import SEAL_BYTES, ChainRecord, Chains, Head, Place, is_signed, place_of, seal
from hermes_nodes.audit.lines import Lines, Spot

_NOT_AS_BEFORE = "up to here this file is from before the chain, and not what it was when that began"
Kind = Literal["edited", "removed", "moved", "added", "tail cut", "older copy"]


class Damage(msgspec.Struct, frozen=True, kw_only=True):
    """The first row that is not as it was: where that shows, and which row should be there."""

    kind: Kind
    file: str
    line: int
    seq: int | None
    message: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it. ``before`` counts lines from before the chain."""

    ok: bool
    rows: int
    before: int
    #: Whether the store knew which lines were there when the chain began; if not, any may have been added.
    before_checked: bool
    files: int
    last_seq: int
    #: The last row ends within its line: it is being written, or the next start cuts it off.
    has_half_row: bool
    #: Whether the chain's key was there; if not, nothing is known but how the rows fit together.
    with_key: bool
    damage: Damage | None


def verify(path: Path, key: bytes, chains: Sequence[ChainRecord]) -> Report:
    """Over all files of the trail; ``chains`` are those that were written there, old to new."""
    return _Keyed(path, key, chains).report()


def verify_shape(path: Path) -> Report:
    """The same without the store, as far as that goes."""
    return _Shape(path).report()


def chains_of(chains: Chains, path: Path) -> list[ChainRecord]:
    """Those of this trail, which may be a copy that lies elsewhere: then its first row tells."""
    here = chains.at(str(path.absolute()))
    if here:
        return here
    first = next(filter(None, (place_of(spot.line) for spot in Lines(path))), None)
    for chain in chains.past:
        if first and (first.seq - 1, first.prev) == chain.start:
            return chains.at(chain.path)
    return chains.at(chains.current.path)


class _Walk(ABC):
    """One way along the lines, which ends at the first damage."""

    with_key = False

    def __init__(self, path: Path) -> None:
        self._lines = Lines(path)
        self._spots: Iterator[Spot] = iter(self._lines)
        self._path = path
        self.head = Head(0, b"")
        self.last = Spot(str(path), 0, b"")
        self.rows = 0
        self.before = 0
        self.started = False
        self.damage: Damage | None = None

    def report(self) -> Report:
        self.damage = self._walk() or self._end()
        return Report(
            ok=self.damage is None,
            rows=self.rows,
            before=self.before,
            before_checked=False,
            files=self._lines.files,
            last_seq=self.head.seq if self.started else 0,
            has_half_row=self._lines.has_half,
            with_key=self.with_key,
            damage=self.damage,
        )

    @abstractmethod
    def _walk(self) -> Damage | None: ...

    @abstractmethod
    def _end(self) -> Damage | None: ...

    @abstractmethod
    def _place(self, line: bytes) -> Place | None:
        """The place of a line that may be believed to be a row."""

    @abstractmethod
    def _missing_at_end(self) -> int:
        """Rows that are to be behind the head, as far as that is known."""

    def _missing_before(self, place: Place) -> int:
        """Rows that are to be between the head and this one."""
        return place.seq - 1 - self.head.seq

    # -- what kind of damage --

    def _unreadable(self, spot: Spot) -> Damage:
        """A line that is no row: what follows tells whether it stands in the place of one."""
        for later in self._spots:
            place = self._place(later.line)
            if place is not None:
                missing = self._missing_before(place)
                break
        else:
            missing = self._missing_at_end()
        if missing > 0:
            return self._found("edited", spot, "this is not the row that was written here")
        return self._found("added", spot, "this line was not written by a gateway", seq=None)

    def _misplaced(self, spot: Spot, place: Place) -> Damage:
        """A row, but not the one that is to come here."""
        if place.seq <= self.head.seq:
            if spot.number == 1 and spot.file == str(self._path):
                return self._found("older copy", spot, f"the file begins again with row {place.seq}")
            return self._found("added", spot, f"row {place.seq} is here a second time", seq=place.seq)
        for later in self._spots:
            found = self._place(later.line)
            if found and (found.seq, found.prev) == (self.head.seq + 1, self.head.hash):
                where = f"row {place.seq} is in its place; it is at {later.file} line {later.number}"
                return self._found("moved", spot, where)
        return self._found("removed", spot, f"the next row here is {place.seq}")

    def _cut(self, missing: int) -> Damage:
        if not self.started:
            return self._found(
                "removed", self.last, f"rows that were written, of which none is here: {missing}"
            )
        kind: Kind = "older copy" if b'"action":"stop"' in self.last.line else "tail cut"
        return self._found(kind, self.last, f"rows that are missing behind this line: {missing}")

    def _found(self, kind: Kind, spot: Spot, message: str, seq: int | None = 0) -> Damage:
        seq = self.head.seq + 1 if seq == 0 else seq
        return Damage(kind=kind, file=spot.file, line=spot.number, seq=seq, message=message)


class _Keyed(_Walk):
    with_key = True

    def __init__(self, path: Path, key: bytes, chains: Sequence[ChainRecord]) -> None:
        super().__init__(path)
        self._key = key
        self._chains = list(chains)
        self._suspect: Spot | None = None
        self._lines_before = Before()
        self._remembered = chains[0].before if chains else None
        if chains:
            self.head = chains[0].start

    def report(self) -> Report:
        report = super().report()
        # Where no row was found, lines may be rows of the chain whose first one is missing.
        if self._remembered is None or not self.started:
            return report
        changed = self._lines_before.changed(self._remembered)
        damage = report.damage if changed is None else self._found("edited", changed, _NOT_AS_BEFORE, None)
        return msgspec.structs.replace(report, ok=damage is None, damage=damage, before_checked=True)

    def _walk(self) -> Damage | None:
        key, head, spot = self._key, self.head.hash, self.last
        for spot in self._spots:
            line = spot.line
            signature = hmac.digest(key, head + line[:-SEAL_BYTES], "sha256")
            if line[-SEAL_BYTES:] == seal(signature):
                self.started, self.rows, head = True, self.rows + 1, signature
                self.head = Head(self.head.seq + 1, signature)
            else:
                damage = self._look_at(spot)
                if damage is not None:
                    return damage
                head = self.head.hash
            self.last = spot
        return None

    def _look_at(self, spot: Spot) -> Damage | None:
        """A line that does not follow: from before the chain, the next chain's first, or damage."""
        place = self._place(spot.line)
        if not self.started and (place is None or place.seq <= self.head.seq):
            # The latter's time was up, and its file is yet to be deleted.
            self._note_suspect(spot)
            self.before += 1
            if place is None:
                self._lines_before.add(spot)
            return None
        if len(self._chains) > 1 and self._missing_in_chain() <= 0:
            self._chains.pop(0)
            self.head = self._chains[0].start
        return self._judge(spot, place)

    def _judge(self, spot: Spot, place: Place | None) -> Damage | None:
        if place is None:
            return self._unreadable(spot)
        if (place.seq - 1, place.prev) == self.head:
            self.head, self.rows = Head(place.seq, place.hash), self.rows + 1
            return None
        if self._begins_next(place):
            return self._found(
                "removed", spot, f"rows that are missing before this one: {self._missing_in_chain()}"
            )
        if self._suspect is not None and not self.started:
            return self._found("edited", self._suspect, "this is not the row that was written here")
        return self._misplaced(spot, place)

    def _note_suspect(self, spot: Spot) -> None:
        """A line that passes itself off as the chain's first row is none from before it."""
        claimed = place_of(spot.line)
        if claimed is None or self._suspect is not None or not self._chains:
            return
        if claimed.seq == self.head.seq + 1 or claimed.prev == self.head.hash:
            self._suspect = spot

    def _begins_next(self, place: Place) -> bool:
        following = self._chains[1:2]
        return bool(following) and (place.seq - 1, place.prev) == following[0].start

    def _end(self) -> Damage | None:
        missing = self._missing_at_end()
        if missing <= 0:
            return None
        if self._suspect is not None and not self.started:
            return self._found("edited", self._suspect, "this is not the row that was written here")
        return self._cut(missing)

    def _missing_at_end(self) -> int:
        if not self._chains:
            return 0
        later = sum(chain.seq - chain.first_seq + 1 for chain in self._chains[1:])
        return self._missing_in_chain() + later

    def _missing_before(self, place: Place) -> int:
        if self._begins_next(place):
            return self._missing_in_chain()
        return super()._missing_before(place)

    def _missing_in_chain(self) -> int:
        return self._chains[0].seq - self.head.seq

    def _place(self, line: bytes) -> Place | None:
        place = place_of(line)
        return place if place is not None and is_signed(self._key, line, place) else None


class _Shape(_Walk):
    def _walk(self) -> Damage | None:
        for spot in self._spots:
            place = place_of(spot.line)
            if place is None and self.started:
                return self._unreadable(spot)
            if place is None:
                self.before += 1
            elif self.started and place.seq != 1 and (place.seq - 1, place.prev) != self.head:
                return self._misplaced_or_edited(spot, place)
            else:
                self.started, self.rows = True, self.rows + 1
                self.head = Head(place.seq, place.hash)
            self.last = spot
        return None

    def _misplaced_or_edited(self, spot: Spot, place: Place) -> Damage:
        if place.seq == self.head.seq + 1:
            return self._found("edited", spot, "it does not fit the row before it: one of them is changed")
        return self._misplaced(spot, place)

    def _end(self) -> Damage | None:
        return None

    def _missing_at_end(self) -> int:
        return 0

    def _place(self, line: bytes) -> Place | None:
        return place_of(line)
