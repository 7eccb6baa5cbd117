"""`stat`, `list_dir`, `make_dir`: what is there, and new directories; blocking, without a network."""

import base64
import json
import os
import stat
import threading
from collections.abc import Generator
from datetime import UTC, datetime
from typing import Literal, NamedTuple, Self

from hermes_nodes.clock import timestamp
from hermes_nodes.errors import CallFailed, FileMissing
from hermes_nodes.node.allowlist import NO_DIRECTORY, Allowlist, telling
from hermes_nodes.node.identity import identity

Kind = Literal["file", "dir", "link", "other"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: The bits of chmod(2).
_PERM_BITS = 0o7777
_KINDS: dict[int, Kind] = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "link"}


class Facts(NamedTuple):
    """What `stat` tells; ``mtime`` in RFC 3339, and of a directory its ``identity``."""

    kind: Kind
    size_bytes: int
    perm: int
    mtime: str
    identity: str | None


def stat_path(allowlist: Allowlist, path: str) -> Facts:
    """What is at a path, every symlink followed; raises FileMissing, PathNotAllowed, …"""
    place = allowlist.open_parent(path)
    try:
        with telling(path):
            found = place.stat()
    finally:
        os.close(place.dir_fd)
    if found is None:
        raise FileMissing(f"{path!r}: there is no such file")
    return _facts(found)


def make_dir(allowlist: Allowlist, path: str, perm: int | None = None, root: str | None = None) -> str:
    """Make a directory, whose parent must exist; one that is there is fine. Gives its identity.

    ``perm`` are its permission bits in the end, also of one that was there; without it a new one gets
    what the umask leaves. Below ``root`` no symlink is followed. Raises CallFailed where something else is
    in its place.
    """
    if perm is not None and perm & ~_PERM_BITS:
        raise CallFailed(f"{path!r}: {perm:o} are not permission bits")
    place = allowlist.open_parent(path.rstrip("/") or path, root)
    try:
        with telling(path):
            _make(place.dir_fd, place.name, perm, path)
            return identity(os.stat(place.name, dir_fd=place.dir_fd, follow_symlinks=False))
    finally:
        os.close(place.dir_fd)


def _make(dir_fd: int, name: str, perm: int | None, path: str) -> None:
    try:
        # Nobody else may look into it before it has the permissions that were asked for.
        os.mkdir(name, 0o777 if perm is None else 0o700, dir_fd=dir_fd)
    except FileExistsError:
        found = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        if not stat.S_ISDIR(found.st_mode):
            raise CallFailed(f"{path!r} is there and is not a directory") from None
        if stat.S_IMODE(found.st_mode) == perm:
            return
    if perm is None:
        return
    fd = os.open(name, _DIRECTORY, dir_fd=dir_fd)
    try:
        os.fchmod(fd, perm)
    finally:
        os.close(fd)


class Listing:
    """A directory's entries as lines of JSON, however many; for any thread, one at a time."""

    def __init__(self, path: str, fd: int) -> None:
        self._path = path
        self._fd = fd
        self._lock = threading.Lock()
        self._lines = self._read()

    @classmethod
    def open(cls, allowlist: Allowlist, path: str) -> Self:
        place = allowlist.open_parent(path)
        try:
            with telling(path):
                fd = os.open(place.name, _DIRECTORY, dir_fd=place.dir_fd)
        except CallFailed as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in NO_DIRECTORY:
                raise CallFailed(f"{path!r} is not a directory") from error
            raise
        finally:
            os.close(place.dir_fd)
        return cls(path, fd)

    def chunk(self, size: int) -> bytes:
        """The next lines, somewhat more than ``size`` bytes at most; none at the end."""
        lines = bytearray()
        with self._lock, telling(self._path):
            for line in self._lines:
                lines += line
                if len(lines) >= size:
                    break
        return bytes(lines)

    def close(self) -> None:
        """Let the directory go; again is harmless. Waits for a chunk that is being read."""
        with self._lock:
            if self._fd >= 0:
                self._lines.close()
                os.close(self._fd)
            self._fd = -1

    def _read(self) -> Generator[bytes, None, None]:
        with os.scandir(self._fd) as entries:
            for entry in entries:
                try:
                    facts = _facts(entry.stat(follow_symlinks=False))
                except FileNotFoundError:  # gone since its name was read
                    continue
                name = base64.b64encode(os.fsencode(entry.name)).decode()
                told = {key: value for key, value in facts._asdict().items() if value is not None}
                yield json.dumps({"name_b64": name, **told}).encode() + b"\n"


def _facts(found: os.stat_result) -> Facts:
    kind = _KINDS.get(stat.S_IFMT(found.st_mode), "other")
    same = identity(found) if kind == "dir" else None
    return Facts(kind, found.st_size, stat.S_IMODE(found.st_mode), _moment(found.st_mtime_ns), same)


def _moment(nanoseconds: int) -> str:
    """RFC 3339; what a file system holds of times that a calendar has not is the epoch."""
    try:
        # In whole milliseconds: a float of nanoseconds would round them.
        seconds, rest = divmod(nanoseconds // 1_000_000, 1000)
        return timestamp(datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest * 1000))
    except (OverflowError, ValueError, OSError):
        return timestamp(datetime.fromtimestamp(0, UTC))
