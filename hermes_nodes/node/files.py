"""Files in and out: blocking work without a network."""

import errno
import hashlib
import os
import stat
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Self, assert_never

from hermes_nodes.disk import sync_directory
from hermes_nodes.errors import CallFailed, FileMissing
from hermes_nodes.node import parts
from hermes_nodes.node.allowlist import Allowlist, Place, telling
from hermes_nodes.node.parts import Note, Parts
from hermes_nodes.node.regular import FILE_FLAGS, Mode, append, replaced, require_regular
from hermes_nodes.protocol.parts import Held, part_name

#: Bytes hashed in one step: a cancel waits no longer than that takes.
_RECALL_BYTES = 8 << 20
#: The bits of chmod(2).
_PERM_BITS = 0o7777
#: What link(2) says on file systems without hard links, such as vfat.
_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class Reader:
    """One regular file being read; for any thread, one at a time.

    Without ``length`` it ends where the file ended when it was opened, so that a log which grows
    as fast as it is read still comes to an end.
    """

    def __init__(self, path: str, fd: int, size: int, offset: int, length: int | None) -> None:
        #: The size of the whole file when it was opened.
        self.size_bytes = size
        self.bytes_read = 0
        self._path = path
        self._fd = fd
        self._offset = offset
        # The files of /proc say that they are empty; only reading shows where they end.
        self._length = max(size - offset, 0) if length is None and size else length
        self._sha256 = hashlib.sha256()
        self._recalled = 0
        self._lock = threading.Lock()

    @classmethod
    def open(cls, allowlist: Allowlist, path: str, offset: int = 0, length: int | None = None) -> Self:
        if offset < 0 or (length is not None and length < 0):
            raise CallFailed(f"{path!r}: an offset or a length can't be negative")
        place = allowlist.open_parent(path)
        try:
            with telling(path):
                # Looked at before it is opened as well: to open a device can be to act on it.
                require_regular(place.stat(), path)
                fd = os.open(place.name, os.O_RDONLY | FILE_FLAGS, dir_fd=place.dir_fd)
        finally:
            os.close(place.dir_fd)
        try:
            found = os.fstat(fd)
            require_regular(found, path)
        except BaseException:
            os.close(fd)
            raise
        return cls(path, fd, found.st_size, offset, length)

    @property
    def sha256(self) -> str:
        """Of the bytes given out so far, in hex."""
        return self._sha256.hexdigest()

    def recall(self) -> bool:
        """Before anything is read: a step of hashing what lies before the offset; False at its end.

        Then ``sha256`` is of the file from its beginning, as whoever resumes a transfer needs it.
        """
        with self._lock, telling(self._path):
            size = min(_RECALL_BYTES, self._offset - self._recalled)
            data = os.pread(self._fd, size, self._recalled)
            self._recalled += len(data)
            self._sha256.update(data)
            return bool(data)

    def chunk(self, size: int) -> bytes:
        """The next bytes, at most ``size``; none at the end."""
        with self._lock, telling(self._path):
            if self._length is not None:
                size = min(size, self._length - self.bytes_read)
            # Not seeking keeps the place in the file out of the descriptor's state.
            data = os.pread(self._fd, size, self._offset + self.bytes_read)
            self.bytes_read += len(data)
            self._sha256.update(data)
            return data

    def close(self) -> None:
        """Let the file go; again is harmless. Waits for a chunk that is being read."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Writer:
    """One file being written; for any thread, one at a time.

    The content is spooled beside its target and takes effect in ``finish``, all of it or none; a
    failure on the way is the same as ``abort``. ``keep`` leaves what has come for a later one, which
    goes on from there.
    """

    def __init__(
        self,
        path: str,
        place: Place,
        mode: Mode,
        *,
        perm: int | None,
        size_bytes: int | None,
        kept: Parts | None,
        replaces_links: bool,
    ) -> None:
        #: With what was there already.
        self.bytes_written = 0
        self._path = path
        self._place = place
        self._mode = mode
        self._perm = perm
        self._size_bytes = size_bytes
        self._offset = 0
        self._held: Held | None = None
        self._sha256 = hashlib.sha256()
        self._lock = threading.Lock()
        self._old = replaced(place, mode, path, links_too=replaces_links)
        self._temporary = f".hermes-{uuid.uuid4().hex}.part"
        # Who may read the target by the umask may read it early, too; nobody else may.
        first_perm = 0o600 if self._old or perm is not None else 0o666
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | FILE_FLAGS
        with telling(os.path.dirname(place.canonical)):
            self._fd = os.open(self._temporary, flags, first_perm, dir_fd=place.dir_fd)
        # To ask the process for its umask is to change it, under every other thread.
        self._kept_perm = stat.S_IMODE((self._old or os.fstat(self._fd)).st_mode) & 0o777
        self._try_perm(0o600)
        parts.lock(self._fd)
        # Only what has a known size can be told from a whole; what is appended has no place of its own.
        is_resumable = mode != "append" and size_bytes is not None
        self._note = Note(os.path.dirname(place.canonical), self._temporary, place.name, is_resumable)
        self._parts = kept if kept is not None and kept.begin(self._note) else None

    @classmethod
    def open(
        cls,
        allowlist: Allowlist,
        path: str,
        mode: Mode = "overwrite",
        perm: int | None = None,
        size_bytes: int | None = None,
        *,
        offset: int = 0,
        root: str | None = None,
        kept: Parts | None = None,
    ) -> Self:
        """Begin; with ``size_bytes`` the whole must be exactly that long, and may be kept in ``kept``.

        ``perm`` are the permission bits of the file in the end; without it an existing file keeps its
        own, and a new one gets what the umask leaves. With ``offset`` the content goes on there in what
        a broken transfer has left: ``recall`` is then called until it is done. Without, that is dropped.
        Below ``root`` no symlink is followed, and one in the file's place is replaced.
        """
        if perm is not None and perm & ~_PERM_BITS:
            raise CallFailed(f"{path!r}: {perm:o} are not permission bits")
        if offset and mode == "append":
            raise CallFailed(f"{path!r}: an append can't be resumed")
        place = allowlist.open_parent(path, root)
        try:
            with telling(path):
                made = cls(
                    path,
                    place,
                    mode,
                    perm=perm,
                    size_bytes=size_bytes,
                    kept=kept,
                    replaces_links=root is not None,
                )
        except BaseException:
            os.close(place.dir_fd)
            raise
        if offset:
            made._resume(offset)
        elif mode != "append":
            made._forget_part()
        return made

    def recall(self) -> bool:
        """A step of hashing what is there already; False once that is done. For a resumed one only."""
        with self._turn():
            size = min(_RECALL_BYTES, self._offset - self.bytes_written)
            data = os.pread(self._fd, size, self.bytes_written)
            self.bytes_written += len(data)
            self._sha256.update(data)
            if data and self.bytes_written < self._offset:
                return True
            if self._held is not None and self._held.sha256 != self._sha256.hexdigest():
                raise CallFailed(f"{self._path!r}: what a broken transfer left has been altered since")
            os.lseek(self._fd, self._offset, os.SEEK_SET)
            return False

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes of the content."""
        with self._turn():
            rest = memoryview(data).cast("B")
            self.bytes_written += len(rest)
            if self._size_bytes is not None and self.bytes_written > self._size_bytes:
                raise self._wrong_size()
            self._sha256.update(rest)
            while rest:
                rest = rest[os.write(self._fd, rest) :]

    def finish(self) -> tuple[int, str]:
        """Put the content where it belongs, durably; its length in bytes and SHA-256 in hex."""
        with self._turn():
            if self._size_bytes not in {None, self.bytes_written}:
                raise self._wrong_size()
            match self._mode:
                case "overwrite":
                    self._settle()
                    self._rename()
                case "create":
                    self._create()
                case "append":
                    self._append()
                case _:
                    assert_never(self._mode)
            sync_directory(".", dir_fd=self._place.dir_fd)
            self._discard()
            return self.bytes_written, self._sha256.hexdigest()

    def keep(self) -> None:
        """The connection is lost: leave what has come for a day, if its size is known; else ``abort``."""
        with self._lock:
            # What was there already must have been read again.
            can_go_on = self._note.is_resumable and self.bytes_written >= self._offset
            if self._fd >= 0 and self._parts is not None and can_go_on:
                with suppress(OSError):
                    held = Held(self.bytes_written, self._sha256.hexdigest())
                    if parts.make_part(self._fd, self._place, self._note, held):
                        self._parts.kept(self._note)
            self._discard()

    def abort(self) -> None:
        """Forget it all and leave the target as it was; nothing, once it is finished."""
        with self._lock:
            self._discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """One step, which no other thread's step or abort can cut into."""
        with self._lock:
            if self._fd < 0:
                raise CallFailed(f"{self._path!r}: this transfer is over")
            try:
                with telling(self._path):
                    yield
            except BaseException:
                self._discard()
                raise

    def _discard(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            # After a rename it is gone already, and what can't be removed has to stay.
            with suppress(OSError):
                os.unlink(self._temporary, dir_fd=self._place.dir_fd)
            if self._parts is not None:
                self._parts.end(self._note)
            os.close(self._place.dir_fd)
        self._fd = -1

    def _resume(self, offset: int) -> None:
        """Go on with what a broken transfer has left, which is nobody else's from now on."""
        with self._turn():
            self._take_part()
            self._held = held = parts.held_in(self._fd)
            if held is None or offset > held.size_bytes:
                there = held.size_bytes if held else 0
                raise CallFailed(f"{self._path!r}: {there} bytes are there to go on from, not {offset}")
            if offset < held.size_bytes:
                self._held = None  # its hash is of more than is taken
            self._offset = offset
            os.ftruncate(self._fd, offset)

    def _take_part(self) -> None:
        dir_fd, name, _ = self._place
        part = part_name(name)
        try:
            found = os.stat(part, dir_fd=dir_fd, follow_symlinks=False)
            is_ours = parts.is_ours(found)
            if is_ours:
                os.rename(part, self._temporary, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
        except FileNotFoundError:
            is_ours = False
        if not is_ours:
            raise FileMissing(f"{self._path!r}: no broken transfer has left anything to go on from")
        fd = os.open(self._temporary, os.O_RDWR | FILE_FLAGS, dir_fd=dir_fd)
        os.close(self._fd)
        self._fd = fd
        parts.lock(fd)
        if not os.path.samestat(found, os.fstat(fd)):
            raise CallFailed(f"{self._path!r}: what a broken transfer left has been replaced since")
        self._forget_note(part)

    def _forget_part(self) -> None:
        """A transfer begins anew: what an earlier one has left is of no use."""
        part = part_name(self._place.name)
        with suppress(OSError):
            if parts.is_ours(os.stat(part, dir_fd=self._place.dir_fd, follow_symlinks=False)):
                os.unlink(part, dir_fd=self._place.dir_fd)
                self._forget_note(part)

    def _forget_note(self, part: str) -> None:
        if self._parts is not None:
            self._parts.end(self._note._replace(name=part))

    def _wrong_size(self) -> CallFailed:
        sizes = f"{self._size_bytes} bytes were announced, {self.bytes_written} came"
        return CallFailed(f"{self._path!r}: {sizes}; nothing was written")

    def _try_perm(self, perm: int) -> None:
        # vfat and its like refuse modes they can't hold; that must not stop a plain write.
        with suppress(OSError):
            os.fchmod(self._fd, perm)

    def _settle(self) -> None:
        """Give the spooled file its owner and mode, and see it on the disk."""
        if self._old is not None:
            # Only root can give a file away; others may at least keep one of their groups.
            owner = self._old.st_uid if os.geteuid() == 0 else -1
            with suppress(OSError):
                os.fchown(self._fd, owner, self._old.st_gid)
        if self._perm is None:
            self._try_perm(self._kept_perm)
        else:
            os.fchmod(self._fd, self._perm)
        os.fsync(self._fd)

    def _rename(self) -> None:
        dir_fd, name, _ = self._place
        os.rename(self._temporary, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)

    def _create(self) -> None:
        self._settle()
        dir_fd, name, _ = self._place
        try:
            os.link(
                self._temporary,
                name,
                src_dir_fd=dir_fd,
                dst_dir_fd=dir_fd,
                follow_symlinks=False,
            )
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            # An empty file makes sure of the name; only one can make it.
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | FILE_FLAGS, dir_fd=dir_fd))
            self._rename()
        else:
            os.unlink(self._temporary, dir_fd=dir_fd)

    def _append(self) -> None:
        while True:
            try:
                fd = os.open(
                    self._place.name, os.O_WRONLY | os.O_APPEND | FILE_FLAGS, dir_fd=self._place.dir_fd
                )
            except FileNotFoundError:
                # Whoever makes the file in this moment makes it for us to append to.
                with suppress(FileExistsError):
                    return self._create()
            else:
                break
        try:
            append(self._fd, fd, self._perm, self._path)
        finally:
            os.close(fd)
