"""Files and directories for us alone, which a crash leaves either old or new.

Every command imports this on its way, so it needs nothing but ``os``.
"""

import errno
import os
import stat
import sys
from contextlib import suppress
from pathlib import Path

#: After these a change may be lost; others only say that a directory can't be synced here.
_LOSSES = {errno.EIO, errno.ENOSPC, errno.EDQUOT}
#: What a file system says that can't reserve room.
_CANT_RESERVE = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS}


def make_directory(path: Path) -> None:
    """Make a directory and what is missing above it, each 0700 whatever the umask.

    ``os.makedirs`` gives its mode to the last one only. One that is there stays as it is.
    """
    if not path.is_dir():
        make_directory(path.parent)
        path.mkdir(0o700, exist_ok=True)


def open_private(path: Path, flags: int = 0) -> int:
    """Open a file for reading and writing, or make it and its directory; a file gets mode 0600."""
    make_directory(path.parent)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | flags, 0o600)
    try:
        if stat.S_ISREG(os.fstat(fd).st_mode):  # not the mode of a device someone has linked here
            os.fchmod(fd, 0o600)
    except OSError:
        os.close(fd)
        raise
    return fd


def write_atomically(path: Path, content: bytes) -> None:
    """Put ``content`` in the place of ``path``, mode 0600, so that a crash leaves old or new."""
    make_directory(path.parent)
    temporary = path.with_name(f".{path.name}.{os.urandom(16).hex()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            os.fchmod(fd, 0o600)
            file.write(content)
            file.flush()
            os.fsync(fd)
        os.rename(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path | str, *, dir_fd: int | None = None) -> None:
    """Keep a changed name through a power cut, on file systems that can and where we may ask."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=dir_fd)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno in _LOSSES:
            raise


def reserve(fd: int, size: int) -> None:
    """Room on the disk for a file of this size, whose content stays."""
    try:
        if sys.platform != "darwin":
            os.posix_fallocate(fd, 0, size)
            return
    except OSError as error:
        if error.errno not in _CANT_RESERVE:
            raise
    old = os.fstat(fd).st_size
    os.pwrite(fd, bytes(max(0, size - old)), old)


def allow_many_files() -> None:
    """Let this process have as many descriptors as the system lets it; each connection takes one.

    The soft limit is often 1024, for programs that still use select(2).
    """
    import resource  # noqa: PLC0415 - few commands have use for it

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS names a limit that it does not grant
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
