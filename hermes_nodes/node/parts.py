"""What broken transfers leave on this node: kept for a day so that they can go on, then swept.

Every write is noted in the node's own folder while its content is spooled beside its target. So nothing
of it is forgotten, not even by a node that was killed in the middle.
"""

import errno
import fcntl
import hashlib
import json
import os
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from hermes_nodes.disk import make_directory
from hermes_nodes.errors import HermesNodesError
from hermes_nodes.node.allowlist import Allowlist
from hermes_nodes.node.allowlist import Place as FilePlace
from hermes_nodes.protocol.parts import TRAILER_BYTES, Held, held_by, part_name, trailer

#: Seconds that a part waits for its transfer to go on.
KEPT_SECONDS = 24 * 3600.0
#: Seconds between two looks for parts that are too old.
SWEEP_EVERY = 600.0
#: Bytes hashed at a time.
_BLOCK = 1 << 20


class Note(NamedTuple):
    """One spooled file: the directory without any symlink, its name there, and its target's name.

    Only an ``is_resumable`` one is of use to a later transfer.
    """

    directory: str
    name: str
    target: str
    is_resumable: bool = True


class Parts:
    """The notes in one folder; for any thread. What the disk refuses there is left out, not raised."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()

    def begin(self, note: Note) -> bool:
        """Remember a file that is being spooled; False if that can't be done."""
        try:
            with self._lock:
                make_directory(self._folder)
                self._write(note)
        except OSError:
            return False
        return True

    def end(self, note: Note) -> None:
        """That file is not there any more."""
        with suppress(OSError):
            self._path(note).unlink()

    def kept(self, note: Note) -> None:
        """That file is a whole part now, and has the name of one."""
        self.begin(note._replace(name=part_name(note.target)))
        self.end(note)

    def tidy(self, *, now: float | None = None) -> None:
        """Make parts of what a node that was killed had spooled, or remove it; remove parts of yesterday.

        ``now`` in seconds since the epoch; blocking, and as long as reading what was spooled takes.
        """
        for path, note in self._notes():
            try:
                if note.name != part_name(note.target):
                    self._adopt(note)
                elif (now or time.time()) - path.stat().st_mtime > KEPT_SECONDS:
                    remove_part(note)
                    self.end(note)
            except HermesNodesError:  # there is no such way any more
                self.end(note)
            except OSError:
                continue

    def _adopt(self, note: Note) -> None:
        with _opened(note) as (place, fd):
            if fd is None:
                self.end(note)
            elif not lock(fd):
                return
            elif note.is_resumable and make_part(fd, place, note, None):
                self.kept(note)
            else:
                with suppress(FileNotFoundError):  # an empty one has made no part
                    os.unlink(note.name, dir_fd=place.dir_fd)
                self.end(note)

    def _notes(self) -> Iterator[tuple[Path, Note]]:
        try:
            paths = list(self._folder.iterdir())
        except OSError:
            return
        for path in paths:
            try:
                yield path, Note(**json.loads(path.read_bytes()))
            except (OSError, ValueError, TypeError):
                continue

    def _write(self, note: Note) -> None:
        path = self._path(note)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            # In ASCII, with surrogates escaped: names may be any bytes.
            file.write(json.dumps(note._asdict()).encode("ascii"))

    def _path(self, note: Note) -> Path:
        key = os.fsencode(f"{note.directory}\0{note.name}")
        return self._folder / hashlib.sha256(key).hexdigest()[:32]


def is_ours(found: os.stat_result) -> bool:
    """Whether a file can be one that we have spooled, and nobody else can have written to it."""
    return (
        stat.S_ISREG(found.st_mode)
        and found.st_uid == os.geteuid()
        and found.st_nlink == 1
        and not found.st_mode & 0o077
    )


def lock(fd: int) -> bool:
    """Say that this spooled file is in use, for as long as it is open; False if it is by someone else."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in {errno.EWOULDBLOCK, errno.EACCES}  # a file system without locks
    return True


def make_part(fd: int, place: FilePlace, note: Note, held: Held | None) -> bool:
    """Give a spooled file its end and a part's name; False for an empty one, which is removed.

    ``held`` is None where what it holds is known to nobody any more.
    """
    held = held or _hashed(fd)
    if not held.size_bytes:
        os.unlink(note.name, dir_fd=place.dir_fd)
        return False
    os.ftruncate(fd, held.size_bytes)
    written = os.pwrite(fd, trailer(held), held.size_bytes)
    if written != TRAILER_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.rename(note.name, part_name(note.target), src_dir_fd=place.dir_fd, dst_dir_fd=place.dir_fd)
    return True


def held_in(fd: int) -> Held | None:
    """What an open part holds; None if it is none."""
    size = os.fstat(fd).st_size
    return held_by(os.pread(fd, TRAILER_BYTES, max(size - TRAILER_BYTES, 0)), size)


def remove_part(note: Note) -> None:
    """Remove a part that no transfer will go on from."""
    with _opened(note) as (place, fd):
        if fd is not None:
            os.unlink(note.name, dir_fd=place.dir_fd)


@contextmanager
def _opened(note: Note) -> Iterator[tuple[FilePlace, int | None]]:
    """The directory and the spooled file in it; None if there is none of ours any more.

    Raises PathNotAllowed where the way to it has changed meanwhile.
    """
    place = Allowlist(["/"]).open_parent(os.path.join(note.directory, note.name))
    try:
        found = place.stat()
        is_there = found is not None and is_ours(found)
        if not is_there or place.canonical != os.path.join(note.directory, note.name):
            yield place, None
            return
        fd = os.open(note.name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place.dir_fd)
        try:
            yield place, fd
        finally:
            os.close(fd)
    finally:
        os.close(place.dir_fd)


def _hashed(fd: int) -> Held:
    digest, size = hashlib.sha256(), 0
    while block := os.pread(fd, _BLOCK, size):
        digest.update(block)
        size += len(block)
    return Held(size, digest.hexdigest())
