"""Files in and out: blocking work without a network."""

import errno
import hashlib
import os
import stat
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal, Self, assert_never

from hermes_nodes.disk import sync_directory
from hermes_nodes.errors import CallFailed, FileMissing, FilePermission
from hermes_nodes.node.allowlist import Allowlist, Place, telling, told

Mode = Literal["overwrite", "create", "append"]

#: Without O_NONBLOCK, opening a FIFO waits for its other end.
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
#: Bytes moved at a time when an append reaches its target.
_COPY_BYTES = 1 << 20
#: The bits of chmod(2).
_PERM_BITS = 0o7777
#: What link(2) says on file systems without hard links, such as vfat.
_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFLNK: "a symbolic link that has just been put there",
}


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
        self._lock = threading.Lock()

    @classmethod
    def open(cls, allowlist: Allowlist, path: str, offset: int = 0, length: int | None = None) -> Self:
        if offset < 0 or (length is not None and length < 0):
            raise CallFailed(f"{path!r}: an offset or a length can't be negative")
        place = allowlist.open_parent(path)
        try:
            with telling(path):
                # Looked at before it is opened as well: to open a device can be to act on it.
                _require_regular(place.stat(), path)
                fd = os.open(place.name, os.O_RDONLY | _FILE, dir_fd=place.dir_fd)
        finally:
            os.close(place.dir_fd)
        try:
            found = os.fstat(fd)
            _require_regular(found, path)
        except BaseException:
            os.close(fd)
            raise
        return cls(path, fd, found.st_size, offset, length)

    @property
    def sha256(self) -> str:
        """Of the bytes given out so far, in hex."""
        return self._sha256.hexdigest()

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
    failure on the way is the same as ``abort``.
    """

    def __init__(
        self, path: str, place: Place, mode: Mode, perm: int | None, size_bytes: int | None
    ) -> None:
        self.bytes_written = 0
        self._path = path
        self._place = place
        self._mode = mode
        self._perm = perm
        self._size_bytes = size_bytes
        self._sha256 = hashlib.sha256()
        self._lock = threading.Lock()
        self._old = place.stat()
        _check_target(self._old, place, mode, path)
        self._temporary = f".hermes-{uuid.uuid4().hex}.part"
        # Who may read the target by the umask may read it early, too; nobody else may.
        first_perm = 0o600 if self._old or perm is not None else 0o666
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _FILE
        with telling(os.path.dirname(place.canonical)):
            self._fd = os.open(self._temporary, flags, first_perm, dir_fd=place.dir_fd)
        # To ask the process for its umask is to change it, under every other thread.
        self._kept_perm = stat.S_IMODE((self._old or os.fstat(self._fd)).st_mode) & 0o777
        self._try_perm(0o600)

    @classmethod
    def open(
        cls,
        allowlist: Allowlist,
        path: str,
        mode: Mode = "overwrite",
        perm: int | None = None,
        size_bytes: int | None = None,
    ) -> Self:
        """Begin; with ``size_bytes`` the content must be exactly that long.

        ``perm`` are the permission bits of the file in the end; without it an existing file
        keeps its own, and a new one gets what the umask leaves.
        """
        if perm is not None and perm & ~_PERM_BITS:
            raise CallFailed(f"{path!r}: {perm:o} are not permission bits")
        place = allowlist.open_parent(path)
        try:
            with telling(path):
                return cls(path, place, mode, perm, size_bytes)
        except BaseException:
            os.close(place.dir_fd)
            raise

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
            os.close(self._place.dir_fd)
        self._fd = -1

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
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FILE, dir_fd=dir_fd))
            self._rename()
        else:
            os.unlink(self._temporary, dir_fd=dir_fd)

    def _append(self) -> None:
        while True:
            try:
                fd = os.open(self._place.name, os.O_WRONLY | os.O_APPEND | _FILE, dir_fd=self._place.dir_fd)
            except FileNotFoundError:
                # Whoever makes the file in this moment makes it for us to append to.
                with suppress(FileExistsError):
                    return self._create()
            else:
                break
        try:
            self._append_to(fd)
        finally:
            os.close(fd)

    def _append_to(self, fd: int) -> None:
        old = os.fstat(fd)
        _require_regular(old, self._path)
        if self._perm is not None:
            os.fchmod(fd, self._perm)
        done = 0
        try:
            while data := os.pread(self._fd, _COPY_BYTES, done):
                done += os.write(fd, data)
            os.fsync(fd)
        except OSError:
            # Anybody else's bytes behind ours would be lost with them.
            if os.fstat(fd).st_size == old.st_size + done:
                os.ftruncate(fd, old.st_size)
            raise


def _check_target(old: os.stat_result | None, place: Place, mode: Mode, path: str) -> None:
    if old is None:
        return
    if mode == "create":
        raise told(OSError(errno.EEXIST, os.strerror(errno.EEXIST)), path)
    _require_regular(old, path)
    # To replace a file takes no right to it, only to its directory; we ask for both.
    if not os.access(place.name, os.W_OK, dir_fd=place.dir_fd, effective_ids=True):
        raise FilePermission(f"{path!r}: the node's user may not write to this file")


def _require_regular(found: os.stat_result | None, path: str) -> None:
    if found is None:
        raise FileMissing(f"{path!r}: there is no such file")
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something special")
        raise CallFailed(f"{path!r} is {kind}, not a file")
