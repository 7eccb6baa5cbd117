"""The trail's one writer."""

import contextlib
import errno
import os
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Literal, Self

import msgspec

from hermes_nodes.audit.files import is_at, next_name, rotated_files
from hermes_nodes.audit.rows import Row, encode, make_row
from hermes_nodes.disk import open_private, sync_directory
from hermes_nodes.errors import AuditUnwritable

Fsync = Literal["always", "interval", "never"]

_NO_FD = -1


class AuditLog:
    """Appends rows to the trail at ``path``, for one process at a time, from any of its threads.

    ``append`` writes and does not fsync, so that an event loop may call it; ``sync`` does, in a thread.
    With ``fsync="always"`` the caller runs ``sync`` before it answers, with ``"interval"`` once a
    second; with ``"never"`` nothing is synced. Only the row that fills the file waits for the disk.
    All methods raise `AuditUnwritable`.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        max_bytes: int = 50 * 1024 * 1024,
        retention_days: int = 365,
        fsync: Fsync = "interval",
    ) -> None:
        self.path = Path(path)
        self.max_bytes = max_bytes
        self.retention_days = retention_days
        self.fsync = fsync
        self._lock = threading.Lock()
        self._fd = _NO_FD
        self._closed = False
        self._size = 0  # of the current file, in bytes
        self._torn = False  # the file ends within a line
        self._written = self._synced = 0  # bytes since the start, over all files
        with self._lock, self._saying_why():
            self._open()

    def append(self, **fields: object) -> Row:
        """Writes one row, which is in the file (not yet on the disk) when this returns it.

        The fields are `Row`'s; a wrong one is a `msgspec.ValidationError`, and nothing is written.
        """
        with self._lock, self._saying_why():
            row = self._link(make_row(fields))
            line = encode(row)
            self._make_room(len(line))
            # A crash or a full disk may have left half a row; this one starts a line of its own.
            self._write(b"\n" + line if self._torn else line)
        return row

    def sync(self) -> None:
        """Puts what was appended before this call on the disk; appends go on meanwhile."""
        with self._lock:
            if self.fsync == "never" or self._fd == _NO_FD or self._synced == self._written:
                return
            written = self._written
            with self._saying_why():
                fd = os.dup(self._fd)  # a rotation closes the other one
        try:
            with self._saying_why():
                os.fsync(fd)
        finally:
            os.close(fd)
        with self._lock:
            self._synced = max(self._synced, written)

    def close(self) -> None:
        with self._lock, self._saying_why():
            self._closed = True
            self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _link(self, row: Row) -> Row:
        """Gives a row its place in the chain; the one place where seq, prev and hash are set."""
        return msgspec.structs.replace(row, seq=None, prev=None, hash=None)

    @contextlib.contextmanager
    def _saying_why(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise AuditUnwritable(self.path, error) from error

    def _make_room(self, size: int) -> None:
        if self._closed:
            raise OSError(errno.EBADF, "it was closed")
        # Someone may have moved or removed the file: rows belong where a reader looks for them.
        if self._fd == _NO_FD or not is_at(self.path, self._fd):
            self._open()
        if self._size and self._size + size > self.max_bytes:
            self._rotate()
            self._open()

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            count = os.write(self._fd, rest)
            self._size += count
            self._written += count
            self._torn = rest[count - 1] != ord("\n")
            rest = rest[count:]

    def _open(self) -> None:
        self._release()
        self._fd = open_private(self.path, os.O_APPEND)
        self._size = os.fstat(self._fd).st_size
        self._torn = self._size > 0 and os.pread(self._fd, 1, self._size - 1) != b"\n"
        if self.fsync != "never":
            sync_directory(self.path.parent)
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
