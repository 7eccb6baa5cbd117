"""Writing rows and looking at what became of them."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hermes_nodes.audit import AuditLog, Trail
from hermes_nodes.audit.chain import Chain, ChainRecord, Chains, Head
from hermes_nodes.audit.verify import Damage, Report, chains_of, verify

SMALL = 1000  # bytes: three rows fill a file


def write(log: AuditLog, first: int, last: int) -> None:
    for number in range(first, last):
        log.append(action="exec", status="ok", exit_code=number)


def numbers(rows: list[dict[str, object]]) -> list[object]:
    return [row["exit_code"] for row in rows]


def rotated(path: Path) -> list[Path]:
    return sorted(file for file in path.parent.iterdir() if file.name != path.name)


def read(path: Path) -> list[dict[str, object]]:
    with Trail(path) as trail:
        return list(trail.read())


def elsewhere(path: Path) -> Path:
    """Another path for a trail."""
    return path.parent.parent / "elsewhere" / path.name


class Home:
    """A chained trail, and what the store of its home holds of it."""

    def __init__(self, path: Path, *, max_bytes: int = SMALL * 100, days: int = 365) -> None:
        self.path = path
        self.key = os.urandom(32)
        self.chains = Chains(current=ChainRecord(path=str(path)))
        self._max_bytes = max_bytes
        self._days = days

    @contextmanager
    def opened(self, *, saves: bool = True) -> Iterator[AuditLog]:
        """The trail as a process has it; one that is killed does not come to save its head."""
        chain = Chain(self.key, self.chains)
        with AuditLog(self.path, max_bytes=self._max_bytes, chain=chain) as log:
            self.chains = chain.chains
            yield log
            log.sync()
            if saves and log.settled:
                self.save(chain, log.settled)

    def save(self, chain: Chain, head: Head) -> None:
        self.chains = chain.with_current(seq=head.seq, hash=head.hash.hex())

    def write(self, first: int, last: int, *, saves: bool = True) -> None:
        with self.opened(saves=saves) as log:
            write(log, first, last)

    def report(self, path: Path | None = None) -> Report:
        path = path or self.path
        return verify(path, self.key, chains_of(self.chains, path))

    def damage(self) -> Damage:
        damage = self.report().damage
        assert damage is not None
        return damage

    # -- what somebody who may write the files can do --

    def files(self) -> list[Path]:
        return [*rotated(self.path), self.path]

    def lines(self) -> list[bytes]:
        return [line for file in self.files() for line in file.read_bytes().splitlines(keepends=True)]

    def place(self, seq: int, *, copy: int = 0) -> tuple[Path, int]:
        """The file of a row, and its number in it from 1."""
        places = [
            (file, number)
            for file in self.files()
            for number, line in enumerate(file.read_bytes().splitlines(), 1)
            if b'"seq":%d,' % seq in line
        ]
        return places[copy]

    def remove(self, seq: int, *, copy: int = 0) -> None:
        self.change(seq, lambda _: b"", copy=copy)

    def change(self, seq: int, change: Callable[[bytes], bytes], *, copy: int = 0) -> tuple[Path, int]:
        """Put something in the place of a row; gives the place."""
        file, number = self.place(seq, copy=copy)
        lines = file.read_bytes().splitlines(keepends=True)
        lines[number - 1] = change(lines[number - 1])
        file.write_bytes(b"".join(lines))
        return file, number
