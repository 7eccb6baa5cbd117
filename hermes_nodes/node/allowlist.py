"""The allowlist: which paths may be read and written, and how one is reached without being led astray.

A path is resolved once, a component at a time, from directories that are held open. What is read
or replaced is then named relative to the last of them, so that no directory or symlink swapped in
meanwhile can lead anywhere else than to where the allowlist was asked about.
"""

import errno
import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from hermes_nodes.errors import (
    CallFailed,
    FileAlreadyThere,
    FileMissing,
    FilePermission,
    FileTooLarge,
    HermesNodesError,
    PathNotAllowed,
)
from hermes_nodes.node.user import current_user, expand_home

#: O_PATH and O_SEARCH need no more than the right to pass through a directory.
_PASS = getattr(os, "O_PATH", getattr(os, "O_SEARCH", os.O_RDONLY))
_DIRECTORY = _PASS | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: As many as Linux follows itself (path_resolution(7)).
_MAX_LINKS = 40
#: Bytes; Linux's PATH_MAX.
_MAX_PATH = 4096
#: What opening something else as a directory says; for a symlink it differs between systems.
NO_DIRECTORY = {errno.ENOTDIR, errno.ELOOP}
#: These speak about this process, not about the place it looked at.
_OWN_TROUBLE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
_ERRORS: dict[int | None, type[HermesNodesError]] = {
    errno.ENOENT: FileMissing,
    errno.EEXIST: FileAlreadyThere,
    errno.EACCES: FilePermission,
    errno.EPERM: FilePermission,
    errno.EFBIG: FileTooLarge,
}


def error_name(error: HermesNodesError | OSError) -> str:
    """What PROTOCOL.md section 4 calls this error in ``read_result`` and ``write_result``."""
    kind = _ERRORS.get(error.errno, CallFailed) if isinstance(error, OSError) else type(error)
    return kind.code if kind in {PathNotAllowed, *_ERRORS.values()} else "io_error"


def told(error: OSError, path: str) -> HermesNodesError:
    """The failure as our own error, with the system's word for it."""
    kind = _ERRORS.get(error.errno, CallFailed)
    return kind(f"{path!r}: {(error.strerror or str(error)).lower()}")


@contextmanager
def telling(path: str) -> Iterator[None]:
    """Turn what the system says of this path into our own error."""
    try:
        yield
    except OSError as error:
        raise told(error, path) from error


class Place(NamedTuple):
    """Where a path leads: a name in a directory that is open; whoever holds it closes that."""

    dir_fd: int
    name: str
    #: The full path without any symlink.
    canonical: str

    def stat(self) -> os.stat_result | None:
        """What is there now, no symlink followed; None for nothing."""
        try:
            return os.stat(self.name, dir_fd=self.dir_fd, follow_symlinks=False)
        except FileNotFoundError:
            return None


class Allowlist:
    """The directories and files that may be read and written, with all that is below them.

    ``home`` is what relative paths and ``~`` start from; by default the user's.
    """

    def __init__(self, roots: Sequence[str], home: str | None = None) -> None:
        self._roots = [_components(os.path.realpath(expand_home(root))) for root in roots]
        self._home = os.path.abspath(home or current_user().home)

    def open_parent(self, path: str, firm_root: str | None = None) -> Place:
        """The place that ``path`` leads to, every symlink followed; it need not exist.

        Below ``firm_root``, a directory that ``path`` begins with, none is followed: one on the way is
        refused, one at the end is the place.

        Raises PathNotAllowed outside the roots, whatever is or is not there, FileMissing for a missing
        directory on the way, and CallFailed for a path that is not below ``firm_root``.
        """
        _check_text(path)
        if not self._roots:
            raise _outside(path)
        components, below = self._absolute(path), []
        if firm_root is not None:
            start = [name for name in self._absolute(firm_root) if name != "."]
            components, below = [*components[: len(start)], "."], components[len(start) :]
            if components[:-1] != start or not below or not {".", ".."}.isdisjoint(below):
                raise CallFailed(f"{path!r} is not a path below {firm_root!r}")
        with telling(path):
            return _Walk(self, path).follow(components, below)

    def _absolute(self, path: str) -> list[str]:
        below_home = f".{path[1:]}" if path == "~" or path.startswith("~/") else path
        return _components(os.path.join(self._home, below_home))

    def holds(self, parts: list[str]) -> bool:
        """Whether these components are those of a root, or of a place below one."""
        return any(parts[: len(root)] == root for root in self._roots)

    def knows(self, parts: list[str]) -> bool:
        """Whether they are that, or lead towards a root, so that the caller knows of them."""
        return self.holds(parts) or any(root[: len(parts)] == parts for root in self._roots)


class _Walk:
    """One path, followed from the root directory, with each symlink expanded by hand."""

    def __init__(self, allowlist: Allowlist, path: str) -> None:
        self._allowlist = allowlist
        self._path = path
        self._todo: deque[str] = deque()
        self._links = 0
        self._fd = os.open("/", _DIRECTORY)
        #: Where ``_fd`` stands, and the name that is looked at there.
        self._here: list[str] = []
        self._name = "."
        self._is_firm = False

    def follow(self, components: list[str], below: list[str]) -> Place:
        """Along ``components``, and on through ``below``, where no symlink is followed."""
        self._todo.extend(components)
        try:
            while self._todo:
                self._name = self._todo.popleft()
                self._step()
            if below:
                self._descend(below)
            return self._arrived()
        except OSError as error:
            os.close(self._fd)
            raise self._failure(error) from error
        except BaseException:
            os.close(self._fd)
            raise

    def _arrived(self) -> Place:
        # A path that ends in a directory by its spelling, such as `/` or `a/`, ends in ".".
        found = self._here if self._name == "." else [*self._here, self._name]
        if not self._allowlist.holds(found):
            raise _outside(self._path)
        return Place(self._fd, self._name, "/" + "/".join(found))

    def _step(self) -> None:
        if self._name == "..":
            self._climb()
        elif self._name != ".":
            if self._todo:
                self._enter()
            elif (target := self._link()) is not None:
                self._expand(target)

    def _enter(self) -> None:
        try:
            self._go_in()
        except OSError as error:
            target = self._link() if error.errno in NO_DIRECTORY else None
            if target is None:
                raise
            self._expand(target)

    def _go_in(self) -> None:
        fd = os.open(self._name, _DIRECTORY, dir_fd=self._fd)
        os.close(self._fd)
        self._fd = fd
        self._here.append(self._name)

    def _descend(self, names: list[str]) -> None:
        self._is_firm = True
        for self._name in names[:-1]:
            self._go_in()
        self._name = names[-1]

    def _link(self) -> str | None:
        """The target of the symlink at this name; None if it is something else, or not there."""
        try:
            return os.readlink(self._name, dir_fd=self._fd)
        except OSError as error:
            if error.errno in {errno.EINVAL, errno.ENOENT}:
                return None
            raise

    def _expand(self, target: str) -> None:
        self._links += 1
        if self._links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        parts = _components(target)
        base = [] if target.startswith("/") else self._here
        # `_here` holds no symlink, so going up from it is taking names off its end.
        while parts and parts[0] == "..":
            del parts[0]
            base = base[:-1]
        self._restart([*base, *parts])

    def _climb(self) -> None:
        # Otherwise `/outside/guess/../../allowed` would tell whether the guess is there.
        if not self._allowlist.knows(self._here):
            raise _outside(self._path)
        # Again from "/", since the ".." of a directory that was moved is somewhere else.
        self._restart(self._here[:-1])

    def _restart(self, components: list[str]) -> None:
        fd = os.open("/", _DIRECTORY)
        os.close(self._fd)
        self._fd = fd
        self._here = []
        self._name = "."
        self._todo.extendleft(reversed(components))

    def _failure(self, error: OSError) -> HermesNodesError:
        place = [*self._here, self._name]
        if error.errno not in _OWN_TROUBLE and not self._allowlist.knows(place):
            return _outside(self._path)
        if error.errno == errno.ENOENT:
            return FileMissing(f"{self._path!r}: the directory {'/' + '/'.join(place)!r} is missing")
        if self._is_firm and error.errno in NO_DIRECTORY:
            return CallFailed(f"{'/' + '/'.join(place)!r} is there and is not a directory")
        return told(error, self._path)


def _components(path: str) -> list[str]:
    """The names in a path; one that asks for a directory (`a/`, `a/.`) ends in "."."""
    head, _, last = path.rpartition("/")
    names = [name for name in head.split("/") if name not in {"", "."}]
    return [*names, last or "."] if path.strip("/") else []


def _check_text(path: str) -> None:
    try:
        size = len(os.fsencode(path))
    except UnicodeEncodeError as error:
        raise CallFailed(f"{path!r}: a path can't hold these characters") from error
    if not path or "\0" in path:
        raise CallFailed(f"{path!r}: a path can't be empty or hold a NUL character")
    if size > _MAX_PATH:
        raise CallFailed(f"{path[:64]!r}…: a path of {size} bytes is too long")


def _outside(path: str) -> PathNotAllowed:
    return PathNotAllowed(
        f"{path!r} is outside the paths this node allows",
        "add it to `allowed_paths` in the node's config.toml, or use a path below one of those",
    )
