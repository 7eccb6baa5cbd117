"""The files of a trail, old and new, and the way from one to the next.

The current file is ``path``; a full one is renamed to ``<path>.<UTC time>``, so that rotated files sort
by name as by age. The system this one replaces left ``<path>.1`` or ``<path>.2026-01-31``: those count
as older than all of ours and are put in order by when they were last written.
"""

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, NamedTuple

from hermes_nodes.errors import AuditUnwritable

_SUFFIX = ".%Y%m%dT%H%M%S%fZ"  # UTC to the microsecond, without a second dot
_OUR_SUFFIX = re.compile(r"\.\d{8}T\d{12}Z")
#: Bytes read at a time on the way back from the end: some two hundred rows.
BLOCK_BYTES = 64 * 1024
_OLDER_SUFFIX = re.compile(r"\.(\d+|\d{4}-\d\d-\d\d[\d_-]*)")


class Rotated(NamedTuple):
    """A rotated file, and what it was when it was found: another may have its name by now."""

    path: Path
    status: os.stat_result


class SayingWhy:
    """Makes of what the system says while a file is written an error with a sentence: AuditUnwritable."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, OSError):
            raise AuditUnwritable(self._path, error) from error


def rotated_files(path: Path) -> list[Rotated]:
    """The rotated files, old to new."""
    found: list[tuple[str, int, Rotated]] = []
    for sibling in path.parent.iterdir() if path.parent.exists() else ():
        ours = _OUR_SUFFIX.fullmatch(sibling.suffix)
        if sibling.stem == path.name and (ours or _OLDER_SUFFIX.fullmatch(sibling.suffix)):
            with contextlib.suppress(FileNotFoundError):  # its time was up meanwhile
                file = Rotated(sibling, sibling.stat())
                found.append((sibling.suffix if ours else "", file.status.st_mtime_ns, file))
    return [file for *_, file in sorted(found)]


def next_name(path: Path) -> Path:
    """A rotated file's name after all that there are, also when the clock was put back."""
    now = datetime.now(UTC)
    suffixes = [file.path.suffix for file in rotated_files(path)]
    for newest in filter(_OUR_SUFFIX.fullmatch, suffixes[-1:]):
        after = datetime.strptime(newest, _SUFFIX).replace(tzinfo=UTC) + timedelta(microseconds=1)
        now = max(now, after)
    return path.with_name(path.name + now.strftime(_SUFFIX))


def open_if_there(path: Path) -> BinaryIO | None:
    """The file, for reading; None where there is none."""
    try:
        return open(path, "rb", opener=_open_regular)
    except FileNotFoundError:
        return None


def _open_regular(path: str, flags: int) -> int:
    # Not to wait for whoever might write to it, if somebody has put a FIFO here.
    fd = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return fd


def is_at(path: Path, fd: int) -> bool:
    """Whether the open file is still the one of this name."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False


def lines_backwards(file: BinaryIO, end: int) -> Iterator[bytes]:
    """The lines before an offset, the last first; before all, what stands behind its newline."""
    held: list[bytes] = []  # of the line whose start is yet to be read, the last piece first
    while end > 0:
        start = max(0, end - BLOCK_BYTES)
        first, *rest = os.pread(file.fileno(), end - start, start).split(b"\n")
        for piece in reversed(rest):
            yield b"".join((piece, *reversed(held)))
            held = []
        held.append(first)
        end = start
    yield b"".join(reversed(held))


def files_of(path: Path) -> list[Path]:
    """Every file of a trail that nobody writes now, old to new; a device holds no rows."""
    return [file.path for file in rotated_files(path)] + ([path] if path.is_file() else [])


def rows_backwards(files: list[Path]) -> Iterator[tuple[int, int, bytes]]:
    """The whole lines of all files, the last first: which file, offset in it, line with its newline."""
    for index in reversed(range(len(files))):
        file = open_if_there(files[index])
        if file is None:
            continue
        with file:
            end = size_of(file)
            for number, line in enumerate(lines_backwards(file, end)):
                end -= len(line)
                if number:  # the first is what stands behind the last newline
                    yield index, end, line + b"\n"
                end -= 1


def size_of(file: BinaryIO) -> int:
    """Its bytes by now."""
    return os.fstat(file.fileno()).st_size


def _index(rotated: list[Rotated], file: BinaryIO) -> int | None:
    status = os.fstat(file.fileno())
    same = (i for i, old in enumerate(rotated) if os.path.samestat(old.status, status))
    return next(same, None)


def _newer(rotated: list[Rotated], file: BinaryIO | None) -> list[Rotated]:
    if file is None:
        return rotated
    index = _index(rotated, file)
    if index is not None:
        return rotated[index + 1 :]
    # Deleted, or moved to a name we don't know: go by the time of its last row.
    last = os.fstat(file.fileno()).st_mtime_ns
    return [old for old in rotated if old.status.st_mtime_ns >= last]


def snapshot(path: Path) -> tuple[list[Rotated], BinaryIO | None]:
    """The rotated files and the current one, none twice or missing if one is rotated meanwhile."""
    while True:
        current = open_if_there(path)
        rotated = rotated_files(path)
        if current is None or _index(rotated, current) is None:
            return rotated, current
        current.close()


def open_after(file: BinaryIO | None, path: Path) -> BinaryIO | None:
    """The file that follows ``file``, or the first one; None if ``file`` is the last."""
    rotated, current = snapshot(path)
    if current and file and os.path.sameopenfile(current.fileno(), file.fileno()):
        current.close()
        return None
    for old in _newer(rotated, file):
        if opened := open_if_there(old.path):
            if current:
                current.close()
            return opened
    return current
