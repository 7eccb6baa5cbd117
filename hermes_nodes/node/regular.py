"""Regular files, which alone are read and written: how they are told, opened and appended to."""

import errno
import os
import stat
from typing import Literal

from hermes_nodes.errors import CallFailed, FileMissing, FilePermission
from hermes_nodes.node.allowlist import Place, told

Mode = Literal["overwrite", "create", "append"]

#: Without O_NONBLOCK, opening a FIFO waits for its other end.
FILE_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
#: Bytes moved at a time when an append reaches its target.
_COPY_BYTES = 1 << 20
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFLNK: "a symbolic link",
}


def replaced(place: Place, mode: Mode, path: str, *, links_too: bool) -> os.stat_result | None:
    """The file that is to be written where one is; raises what keeps it from that.

    With ``links_too`` an `overwrite` replaces a symlink as if nothing were there.
    """
    old = place.stat()
    if old is None or (links_too and mode == "overwrite" and stat.S_ISLNK(old.st_mode)):
        return None
    if mode == "create":
        raise told(OSError(errno.EEXIST, os.strerror(errno.EEXIST)), path)
    require_regular(old, path)
    # To replace a file takes no right to it, only to its directory; we ask for both.
    if not os.access(place.name, os.W_OK, dir_fd=place.dir_fd, effective_ids=True):
        raise FilePermission(f"{path!r}: the node's user may not write to this file")
    return old


def require_regular(found: os.stat_result | None, path: str) -> None:
    """Raises FileMissing, or CallFailed for what is no regular file."""
    if found is None:
        raise FileMissing(f"{path!r}: there is no such file")
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something special")
        raise CallFailed(f"{path!r} is {kind}, not a file")


def append(source_fd: int, fd: int, perm: int | None, path: str) -> None:
    """Put all of one open file at the end of another, durably, or leave that as it was."""
    old = os.fstat(fd)
    require_regular(old, path)
    if perm is not None:
        os.fchmod(fd, perm)
    done = 0
    try:
        while data := os.pread(source_fd, _COPY_BYTES, done):
            done += os.write(fd, data)
        os.fsync(fd)
    except OSError:
        # Anybody else's bytes behind ours would be lost with them.
        if os.fstat(fd).st_size == old.st_size + done:
            os.ftruncate(fd, old.st_size)
        raise
