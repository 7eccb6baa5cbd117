"""The trail's one writer."""

import contextlib
import errno
import os
import stat
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Literal, Self

from msgspec.structs import force_setattr

from hermes_nodes.audit.chain import Chain, Head
from hermes_nodes.audit.files import SayingWhy, is_at, next_name, rotated_files
from hermes_nodes.audit.resume import resume
from hermes_nodes.audit.rows import Row, encode, make_row
from hermes_nodes.disk import open_private, reserve, sync_directory

Fsync = Literal["always", "interval", "never"]

_NO_FD = -1
#: Bytes: with less room than the rows of a few calls take, a disk counts as full.
LEAST_ROOM = 64 * 1024


class AuditLog:
    """Appends rows to the trail at ``path``, for one process at a time, from any of its threads.

    ``append`` writes and does not fsync, so that an event loop may call it; ``sync`` does, in a thread.
    With ``fsync="always"`` the caller runs ``sync`` before it answers, with ``"interval"`` once a
    second; with ``"never"`` nothing is synced. Only the row that fills the file waits for the disk.
    All methods raise `AuditUnwritable`.

    With a ``chain`` each row is linked to the one before. Whoever gives it saves ``settled``, now and
    then and at the end, and deletes rotated files by `retention`; without one they are deleted here.
    ``lenient``: a trail that can't be opened now is opened by the first row for which it can be.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        max_bytes: int = 50 * 1024 * 1024,
        retention_days: int = 365,
        fsync: Fsync = "interval",
        chain: Chain | None = None,
        lenient: bool = False,
    ) -> None:
        self.path = Path(path)
        self.max_bytes = max_bytes
        self.retention_days = retention_days
        self.fsync = fsync
        self.chain = chain
        #: The chain's last row that is on the disk, as far as ``fsync`` asks for that.
        self.settled: Head | None = None
        #: Rotated files may have had their time; cleared by whoever looks after them.
        self.expiry_due = False
        self._resumed = chain is None
        self._saying_why = SayingWhy(self.path)
        self._lock = threading.Lock()
        self._fd = _NO_FD
        self._closed = False
        self._size = 0  # of the current file, in bytes
        self._torn = False  # the file ends within a line
        self._cut: int | None = None  # where what a failed write has left begins, if it is still there
        self._written = self._synced = 0  # bytes since the start, over all files
        with self._lock, self._saying_why:
            try:
                self._open()
            except OSError:
                if not lenient:
                    raise

    def append(self, **fields: object) -> Row:
        """Writes one row, which is in the file (not yet on the disk) when this returns it.

        The fields are `Row`'s; a wrong one is a `msgspec.ValidationError`, and nothing is written.
        """
        with self._lock, self._saying_why:
            row = make_row(fields)
            self._ready()
            line, head = self._link(row)
            self._make_room(len(line))
            # Somebody else's half a line stays; this row starts one of its own.
            self._write(b"\n" + line if self._torn else line)
            if self.chain is not None and head is not None:
                self.chain.head = head
        return row

    def check(self) -> None:
        """Whether a row could be written now, as far as that can be known without writing one."""
        with self._lock, self._saying_why:
            self._ready()
            disk = os.fstatvfs(self._fd)
            if disk.f_flag & os.ST_RDONLY:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
            # Some file systems, of the network or of devices, count no blocks at all.
            if disk.f_blocks and disk.f_bavail * disk.f_frsize < LEAST_ROOM:
                _try_room(self.path.parent)

    def sync(self) -> None:
        """Puts what was appended before this call on the disk; appends go on meanwhile."""
        with self._lock:
            head = self.chain.head if self.chain and self._resumed else None
            if self.fsync == "never" or self._fd == _NO_FD or self._synced == self._written:
                self.settled = head
                return
            written = self._written
            with self._saying_why:
                fd = os.dup(self._fd)  # a rotation closes the other one
        try:
            with self._saying_why:
                os.fsync(fd)
        finally:
            os.close(fd)
        with self._lock:
            self._synced, self.settled = max(self._synced, written), head

    def close(self) -> None:
        with self._lock, self._saying_why:
            self._closed = True
            self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _link(self, row: Row) -> tuple[bytes, Head | None]:
        """Gives a new row its place in the chain; the one place where seq, prev and hash are set."""
        if self.chain is not None:
            return self.chain.link(row)
        for name in ("seq", "prev", "hash"):
            force_setattr(row, name, None)
        return encode(row), None

    def _ready(self) -> None:
        if self._closed:
            raise OSError(errno.EBADF, "it was closed")
        # Someone may have moved or removed the file: rows belong where a reader looks for them.
        if self._fd == _NO_FD or not is_at(self.path, self._fd):
            self._open()
        if self._cut is not None:
            self._take_back(self._cut)

    def _make_room(self, size: int) -> None:
        if self._size and self._size + size > self.max_bytes:
            self._rotate()
            self._open()

    def _write(self, data: bytes) -> None:
        start, rest = self._size, memoryview(data)
        try:
            while rest:
                count = os.write(self._fd, rest)
                self._size += count
                rest = rest[count:]
        except OSError:
            with contextlib.suppress(OSError):  # else the next row tries that again
                self._take_back(start)
            raise
        self._written += len(data)
        self._torn = False

    def _take_back(self, size: int) -> None:
        """Half a row is none: a disk that is full has cut it off."""
        if self._size > size and stat.S_ISREG(os.fstat(self._fd).st_mode):
            self._cut = size
            os.ftruncate(self._fd, size)
        self._cut, self._size = None, size

    def _open(self) -> None:
        self._release()
        if self.chain is not None and not self._resumed:
            resume(self.path, self.chain)
            self._resumed = True
        self._fd, self._cut = open_private(self.path, os.O_APPEND), None
        self._size = os.fstat(self._fd).st_size
        self._torn = self._size > 0 and os.pread(self._fd, 1, self._size - 1) != b"\n"
        if self.fsync != "never":
            sync_directory(self.path.parent)
        self.expiry_due = True
        if self.chain is None:
            self._expire()

    def _rotate(self) -> None:
        self._sync_before_leaving()
        os.rename(self.path, next_name(self.path))
        self._release()

    def _release(self) -> None:
        try:
            self._sync_before_leaving()
        finally:
            fd, self._fd = self._fd, _NO_FD
            if fd != _NO_FD:
                os.close(fd)

    def _sync_before_leaving(self) -> None:
        if self._fd != _NO_FD and self._synced != self._written and self.fsync != "never":
            os.fsync(self._fd)
            self._synced = self._written

    def _expire(self) -> None:
        oldest = time.time() - timedelta(days=self.retention_days).total_seconds()
        for file in rotated_files(self.path):
            if file.status.st_mtime < oldest:
                # One that can't be deleted is no reason to refuse calls; each rotation tries again.
                with contextlib.suppress(OSError):
                    os.unlink(file.path)


def _try_room(folder: Path) -> None:
    """Raises OSError where a disk that seems full is full; root gets what is kept back from others."""
    import tempfile  # noqa: PLC0415 - a disk is seldom full

    with tempfile.TemporaryFile(dir=folder) as file:
        reserve(file.fileno(), LEAST_ROOM)
