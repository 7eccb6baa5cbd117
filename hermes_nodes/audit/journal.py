"""The journal: every call that is under way, on disk before its node hears of it, in room kept for its end.

A file of blocks. A call has a run of them: one part for what is known when it begins, and a block for how
it ended, each behind a head of mark, length and an HMAC under a key of the chain's. JSON holds no byte
below 0x20, so nothing that anybody can put into a call looks like a mark. A call whose mark is zero has
been struck out.
"""

import contextlib
import errno
import hmac
import os
import struct
import threading
from collections.abc import Iterable
from pathlib import Path

from hermes_nodes.audit.files import SayingWhy, is_at
from hermes_nodes.disk import open_private, reserve, sync_directory

BLOCK = 512
#: Bytes kept from the start: some three hundred calls of the usual size.
RESERVE = 512 * 1024
#: Bytes that it may grow to. Memory holds as much again, to write the journal anew where it was taken away.
MOST = 256 * 1024 * 1024
_HEAD = struct.Struct("<4sI32s")
#: Bytes that the end of a call may take.
END_BYTES = BLOCK - _HEAD.size
_BEGUN, _ENDED, _STRUCK = b"\x01HNB", b"\x01HNE", bytes(4)
_NO_FD = -1


class Entry:
    """A call in the journal: where, what was known when it began, and how it ended, if that is kept."""

    __slots__ = ("begun", "ended", "offset", "signature")

    def __init__(self, offset: int, begun: bytes, signature: bytes, ended: bytes | None = None) -> None:
        self.offset = offset
        self.begun = begun
        self.signature = signature
        self.ended = ended

    @property
    def blocks(self) -> int:
        return _blocks(len(self.begun))

    @property
    def end_offset(self) -> int:
        return self.offset + (self.blocks - 1) * BLOCK


class Journal:
    """For one process at a time, from any of its threads. Its methods raise `AuditUnwritable`.

    ``begin``, ``end`` and ``strike`` write and do not wait for the disk; ``sync`` does.
    ``lenient``: one that can't be opened now is opened by the first call for which it can be.
    """

    def __init__(self, path: Path, key: bytes, *, lenient: bool = False) -> None:
        self.path = path
        self._saying_why = SayingWhy(path)
        self._key = hmac.digest(key, b"journal", "sha256")
        self._lock = threading.Lock()
        self._fd = _NO_FD
        self._closed = False
        self._size = 0
        self._next = 0  # behind it nothing is in use
        self._free: dict[int, list[int]] = {}  # by number of blocks
        self._entries: dict[int, Entry] = {}
        self._left: list[Entry] | None = None
        with self._lock, self._saying_why:
            try:
                self._ready()
            except OSError:
                if not lenient:
                    raise

    def begin(self, begun: bytes) -> Entry:
        """Note a call that is to be sent to its node."""
        with self._lock, self._saying_why:
            self._ready()
            entry = Entry(self._allocate(_blocks(len(begun))), begun, self._sign(begun))
            try:
                self._write(entry.offset, _BEGUN, entry.signature, begun)
            except OSError:
                self._give_back(entry)
                raise
            self._entries[entry.offset] = entry
        return entry

    def end(self, entry: Entry, ended: bytes) -> None:
        """Keep how a call ended, for which there is no room elsewhere now; at most `END_BYTES`."""
        with self._lock, self._saying_why:
            entry.ended = ended
            self._ready()
            self._write_end(entry)

    def strike(self, entries: Iterable[Entry]) -> None:
        """Forget calls whose rows are in the trail."""
        with self._lock:
            for entry in entries:
                if self._entries.pop(entry.offset, None) is not None:
                    self._give_back(entry)
                    # If this fails, the next start finds the call's row and strikes it out.
                    with contextlib.suppress(OSError):
                        os.pwrite(self._fd, _STRUCK, entry.offset)
            if not self._entries:
                self._free.clear()
                self._next = 0

    def left(self) -> list[Entry]:
        """What a gateway that was killed has left; told once, when the journal could be opened."""
        with self._lock:
            left, self._left = self._left or [], []
        return left

    def sync(self) -> None:
        """Wait until what was noted before this is on the disk."""
        with self._lock, self._saying_why:
            fd = os.dup(self._fd)
        try:
            with self._saying_why:
                os.fsync(fd)
        finally:
            os.close(fd)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._release()

    # -- the file --

    def _ready(self) -> None:
        """Open it with its room; if somebody has taken it away, with the calls that are under way."""
        if self._closed:
            raise OSError(errno.EBADF, "it was closed")
        if self._fd != _NO_FD and is_at(self.path, self._fd):
            return
        self._release()
        fd = open_private(self.path)
        try:
            self._prepare(fd)
        except OSError:
            os.close(fd)
            raise
        self._fd = fd
        for entry in self._entries.values():
            self._write(entry.offset, _BEGUN, entry.signature, entry.begun)
            if entry.ended is not None:
                self._write_end(entry)

    def _prepare(self, fd: int) -> None:
        if self._left is None:
            self._left = self._read(fd)
            self._entries = {entry.offset: entry for entry in self._left}
            self._next = max((entry.end_offset + BLOCK for entry in self._left), default=0)
        self._size = max(os.fstat(fd).st_size if self._entries else 0, self._next, RESERVE)
        os.ftruncate(fd, min(self._size, os.fstat(fd).st_size))
        reserve(fd, self._size)
        sync_directory(self.path.parent)

    def _read(self, fd: int) -> list[Entry]:
        """The calls in it, as far as they were written whole."""
        content = memoryview(os.pread(fd, os.fstat(fd).st_size, 0))
        found, offset = [], 0
        while offset < len(content):
            begun = self._part(content, offset, _BEGUN, b"")
            if begun is None:
                offset += BLOCK
                continue
            entry = Entry(offset, begun, self._sign(begun))
            entry.ended = self._part(content, entry.end_offset, _ENDED, entry.signature)
            found.append(entry)
            offset = entry.end_offset + BLOCK
        return found

    def _part(self, content: memoryview, offset: int, mark: bytes, bound_to: bytes) -> bytes | None:
        if content[offset : offset + 4] != mark or len(content) < offset + _HEAD.size:
            return None
        _, size, signature = _HEAD.unpack_from(content, offset)
        payload = bytes(content[offset + _HEAD.size : offset + _HEAD.size + size])
        return payload if hmac.compare_digest(signature, self._sign(payload, bound_to)) else None

    def _write(self, offset: int, mark: bytes, signature: bytes, payload: bytes) -> None:
        data = _HEAD.pack(mark, len(payload), signature) + payload
        if os.pwrite(self._fd, data, offset) < len(data):
            # A limit or a quota that cuts off half of it refuses the rest, too.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _write_end(self, entry: Entry) -> None:
        ended = entry.ended or b""
        self._write(entry.end_offset, _ENDED, self._sign(ended, entry.signature), ended)

    def _sign(self, payload: bytes, bound_to: bytes = b"") -> bytes:
        return hmac.digest(self._key, bound_to + payload, "sha256")

    def _allocate(self, blocks: int) -> int:
        """Where so many blocks are free; makes the file longer if there is need."""
        if self._free.get(blocks):
            return self._free[blocks].pop()
        end = self._next + blocks * BLOCK
        if end > MOST:
            raise OSError(errno.ENOSPC, "too many calls are under way")
        if end > self._size:
            size = min(max(2 * self._size, end), MOST)
            reserve(self._fd, size)
            self._size = size
        offset, self._next = self._next, end
        return offset

    def _give_back(self, entry: Entry) -> None:
        self._free.setdefault(entry.blocks, []).append(entry.offset)

    def _release(self) -> None:
        fd, self._fd = self._fd, _NO_FD
        if fd != _NO_FD:
            os.close(fd)


def _blocks(size: int) -> int:
    """Of a call of which so much is known; one is for its end."""
    return -(-(_HEAD.size + size) // BLOCK) + 1
