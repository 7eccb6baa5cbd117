"""How a chain goes on when its trail is opened: rows since its head was saved, and half a row."""

import os
from pathlib import Path

from hermes_nodes.audit.before import lines_before
from hermes_nodes.audit.chain import Chain, follows, is_signed, place_of
from hermes_nodes.audit.files import files_of, lines_backwards, open_if_there, rows_backwards, size_of

#: Lines looked at beyond the first one that is older than the head: somebody may have put it there.
_LOOK_BEYOND = 10_000


def resume(path: Path, chain: Chain) -> None:
    """Go on with the chain at this path; what is there from before its first row is remembered."""
    _find_head(path, chain)
    current = chain.chains.current
    is_first_here = chain.chains.at(str(path)) == [current]
    # Until there is a row, also what was left of one that was never whole is from before it.
    is_due = not chain.head.seq or current.before is None
    if is_first_here and is_due and (path.is_file() or not path.exists()):
        chain.chains = chain.with_current(before=lines_before(path, chain.key, current.start))


def _find_head(path: Path, chain: Chain) -> None:
    """Put the chain's head behind the last row that follows from it, and cut off half a row behind that.

    Where the head is not found the rows stay as they are, and `verify` shows what is wrong with them;
    a trail at another path than before then is one that begins there.
    """
    files = files_of(path)
    spot = None if chain.is_new else _find(files, chain)
    moved = chain.chains.current.path != str(path)
    if spot is not None:
        _adopt(files[spot[0] :], spot[1], path, chain)
        if moved:
            chain.move(str(path))
        return
    if moved and chain.head.seq:
        chain.begin_anew(str(path))
    elif moved:
        chain.move(str(path))
    elif files:
        _cut_unended(files[-1], chain)


def _find(files: list[Path], chain: Chain) -> tuple[int, int] | None:
    """The file, and the offset in it, where what follows the head begins; looked for from the end."""
    beyond = 0
    for index, start, line in rows_backwards(files):
        place = place_of(line)
        if place is None or not is_signed(chain.key, line, place):
            continue
        if (place.seq, place.hash) == chain.head:
            return index, start + len(line)
        if (place.seq, place.prev) == (chain.head.seq + 1, chain.head.hash):
            return index, start
        beyond += place.seq <= chain.head.seq
        if beyond > _LOOK_BEYOND:
            break
    return None


def _cut_unended(path: Path, chain: Chain) -> None:
    """A row that lacks nothing but its newline was never said to be written, and must not become one."""
    with open(path, "rb") as file:
        last = next(lines_backwards(file, size_of(file)))
        if follows(chain.key, chain.head, last + b"\n"):
            os.truncate(path, size_of(file) - len(last))


def _adopt(files: list[Path], offset: int, current: Path, chain: Chain) -> None:
    """Every row that follows, whatever else stands between them."""
    for path in files:
        file = open_if_there(path)
        if file is None:
            continue
        with file:
            file.seek(offset)
            for line in file:
                chain.head = follows(chain.key, chain.head, line) or chain.head
                if not line.endswith(b"\n") and path == current:
                    os.truncate(path, size_of(file) - len(line))
        offset = 0
