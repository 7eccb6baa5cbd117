"""Files of this machine: read as they are, and written beside their target until they are whole."""

import errno
import fcntl
import hashlib
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from hermes_nodes.disk import sync_directory
from hermes_nodes.errors import CallFailed, FilePermission, TryAgain, Unavailable
from hermes_nodes.file_calls import FileFacts
from hermes_nodes.node.allowlist import telling
from hermes_nodes.node.identity import identity
from hermes_nodes.protocol.parts import part_name

if TYPE_CHECKING:
    from hashlib import _Hash

#: Bytes read at a time.
BLOCK = 1 << 20
#: The permission bits that a copy keeps: whoever may run it as somebody else is not the source's to say.
KEPT_PERM = 0o777
_CLOSED = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "link"}


def facts_of(found: os.stat_result) -> FileFacts:
    """The same that a node tells of its files, without the time."""
    kind = _KINDS.get(stat.S_IFMT(found.st_mode), "other")
    same = identity(found) if kind == "dir" else None
    return FileFacts(kind, found.st_size, stat.S_IMODE(found.st_mode), None, same)


class LocalSource:
    """An open file that is to be copied; whoever made it closes it."""

    def __init__(self, shown: str, fd: int) -> None:
        self.shown = shown
        self._fd = fd
        self._found = os.fstat(fd)
        if not stat.S_ISREG(self._found.st_mode):
            os.close(fd)
            raise CallFailed(f"{shown!r} is not a file")
        self.size_bytes: int | None = self._found.st_size
        self.perm: int | None = stat.S_IMODE(self._found.st_mode) & KEPT_PERM

    @classmethod
    def open(cls, shown: str, name: str, dir_fd: int | None = None) -> "LocalSource":
        """By its path, symlinks followed; or by its name in an open directory, and then not."""
        flags = _CLOSED if dir_fd is not None else _CLOSED & ~os.O_NOFOLLOW
        with telling(shown):
            return cls(shown, os.open(name, os.O_RDONLY | flags, dir_fd=dir_fd))

    def close(self) -> None:
        os.close(self._fd)

    @contextmanager
    def opened(self) -> Iterator[Iterator[bytes]]:
        """The content from its beginning; raises CallFailed if it changes meanwhile."""
        yield self._blocks()

    def _blocks(self) -> Iterator[bytes]:
        at, size = 0, self._found.st_size
        with telling(self.shown):
            while block := os.pread(self._fd, min(BLOCK, size - at), at):
                at += len(block)
                yield block
            now = os.fstat(self._fd)
        if (now.st_size, now.st_mtime_ns) != (size, self._found.st_mtime_ns) or at != size:
            raise CallFailed(f"{self.shown!r} changed while it was read", "copy it again")


class LocalTarget:
    """A file that is to be written; ``opened`` gives its content a place until it is whole."""

    def __init__(self, shown: str, dir_fd: int, name: str) -> None:
        self.shown = shown
        self._dir_fd = dir_fd
        self._name = name

    def check(self) -> os.stat_result | None:
        """What is there now; raises what keeps it from being replaced."""
        with telling(self.shown):
            try:
                old = os.stat(self._name, dir_fd=self._dir_fd, follow_symlinks=False)
            except FileNotFoundError:
                return None
        if stat.S_ISLNK(old.st_mode):  # only below a directory that is copied: the link is replaced
            return None
        if not stat.S_ISREG(old.st_mode):
            kind = "a directory" if stat.S_ISDIR(old.st_mode) else "something special"
            raise CallFailed(f"{self.shown!r} is {kind}, not a file")
        if not os.access(self._name, os.W_OK, dir_fd=self._dir_fd, effective_ids=True):
            raise FilePermission(f"{self.shown!r}: you may not write to this file")
        return old

    @contextmanager
    def opened(self, *, resume: bool) -> Iterator["LocalPart"]:
        """Where its content goes. What has come stays if the connection is lost, and is gone otherwise."""
        old = self.check()
        with telling(self.shown):
            part = LocalPart(self.shown, self._dir_fd, self._name, old, resume=resume)
        try:
            yield part
        except (TryAgain, Unavailable):
            part.leave()
            raise
        finally:
            part.close()


class LocalPart:
    """The content of a file that is not whole yet, beside its target."""

    def __init__(
        self, shown: str, dir_fd: int, name: str, old: os.stat_result | None, *, resume: bool
    ) -> None:
        self._shown = shown
        self._dir_fd = dir_fd
        self._target = name
        self._old = old
        self._name: str = part_name(name, ".hermes.part")
        self._is_lasting = True
        self._fd = self._open_lasting()
        if self._fd < 0:
            self._is_lasting = False
            self._name = f".hermes-{uuid.uuid4().hex}.part"
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _CLOSED
            self._fd = os.open(self._name, flags, 0o600, dir_fd=dir_fd)
        if not resume:
            os.ftruncate(self._fd, 0)
        #: Bytes that it holds.
        self.size_bytes = os.lseek(self._fd, 0, os.SEEK_END)

    def hashed(self) -> "_Hash":
        """The SHA-256 of what it holds."""
        digest, at = hashlib.sha256(), 0
        with telling(self._shown):
            while block := os.pread(self._fd, BLOCK, at):
                digest.update(block)
                at += len(block)
        return digest

    def add(self, piece: memoryview) -> None:
        with telling(self._shown):
            rest = piece
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        self.size_bytes += len(piece)

    def clear(self) -> None:
        """Begin anew."""
        with telling(self._shown):
            os.ftruncate(self._fd, 0)
            os.lseek(self._fd, 0, os.SEEK_SET)
        self.size_bytes = 0

    def finish(self, perm: int | None) -> None:
        """Put it in its target's place, durably. Without ``perm``: as the old one, or as the umask says."""
        with telling(self._shown):
            with suppress(PermissionError):  # vfat and its like have modes of their own
                os.fchmod(self._fd, self._perm() if perm is None else perm)
            os.fsync(self._fd)
            os.rename(self._name, self._target, src_dir_fd=self._dir_fd, dst_dir_fd=self._dir_fd)
            self._name = ""
            sync_directory(".", dir_fd=self._dir_fd)

    def leave(self) -> None:
        """Keep what has come for a later copy to go on from."""
        if self._is_lasting and self.size_bytes:
            self._name = ""

    def close(self) -> None:
        if self._name:
            with suppress(OSError):
                os.unlink(self._name, dir_fd=self._dir_fd)
        os.close(self._fd)

    def _perm(self) -> int:
        if self._old is not None:
            return stat.S_IMODE(self._old.st_mode) & KEPT_PERM
        mask = os.umask(0)  # to ask for it is to change it
        os.umask(mask)
        return 0o666 & ~mask

    def _open_lasting(self) -> int:
        """The file by the name under which a later copy finds it; -1 if it is another's, or in use."""
        try:
            fd = os.open(self._name, os.O_RDWR | os.O_CREAT | _CLOSED, 0o600, dir_fd=self._dir_fd)
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EACCES, errno.EPERM}:
                return -1  # something else has that name; or nothing can be made here, which shows again
            raise
        if self._is_ours_alone(fd):
            return fd
        os.close(fd)
        return -1

    def _is_ours_alone(self, fd: int) -> bool:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink != 1:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            named = os.stat(self._name, dir_fd=self._dir_fd, follow_symlinks=False)
        except OSError:
            return False
        # Between its opening and its lock another copy may have put it in the target's place.
        return os.path.samestat(found, named)
