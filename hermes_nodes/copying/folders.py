"""Directories on either side: what is in them, and new ones below. Nothing leads out of one."""

import os
import stat
from abc import ABC, abstractmethod

from hermes_nodes.copying.local import KEPT_PERM, LocalSource, LocalTarget, facts_of
from hermes_nodes.copying.nodes import Nodes
from hermes_nodes.copying.remote import NodeSource, NodeTarget
from hermes_nodes.copying.spots import Spot
from hermes_nodes.errors import CallFailed, FileMissing
from hermes_nodes.file_calls import DirectoryEntry, FileFacts
from hermes_nodes.node.allowlist import telling
from hermes_nodes.node.identity import identity

#: Bytes of a name, and of a whole path: what Linux takes (NAME_MAX, PATH_MAX).
_MAX_NAME = 255
_MAX_PATH = 4096
#: What a copy is made with; it may have less only when all is in it.
_OWN_PERM = 0o700
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Folder(ABC):
    """One directory; ``is_new`` says that it was made for this copy.

    Whatever has the same ``identity`` is the same directory; None where its node can't tell.
    """

    def __init__(self, spot: Spot, identity: str | None, *, is_new: bool = False) -> None:
        self.spot = spot
        self.identity = identity
        self.is_new = is_new

    @abstractmethod
    def entries(self) -> list[DirectoryEntry]:
        """All that is in it, sorted by name."""

    @abstractmethod
    def enter(self, entry: DirectoryEntry) -> "Folder":
        """A directory in it."""

    @abstractmethod
    def make(self, name: str, perm: int) -> "Folder":
        """The same, which need not be there yet; nobody else can write to a new one before ``settle``."""

    @abstractmethod
    def settle(self, perm: int) -> None:
        """Give a new one its permissions."""

    @abstractmethod
    def source(self, entry: DirectoryEntry) -> LocalSource | NodeSource:
        """A file in it that is to be read."""

    @abstractmethod
    def target(self, name: str) -> LocalTarget | NodeTarget:
        """A file in it that is to be written."""

    @abstractmethod
    def close(self) -> None: ...


class LocalFolder(Folder):
    """A directory of this machine that is held open, so that its name can't come to lead elsewhere."""

    def __init__(self, spot: Spot, fd: int, *, is_new: bool = False) -> None:
        super().__init__(spot, identity(os.fstat(fd)), is_new=is_new)
        self._fd = fd

    @classmethod
    def open(cls, spot: Spot) -> "LocalFolder":
        """By its path, symlinks followed."""
        with telling(spot.path):
            return cls(spot, os.open(spot.path, _DIRECTORY))

    def entries(self) -> list[DirectoryEntry]:
        found = []
        with telling(self.spot.path), os.scandir(self._fd) as scanned:
            for entry in scanned:
                try:
                    facts = facts_of(entry.stat(follow_symlinks=False))
                except FileNotFoundError:
                    facts = FileFacts("file", 0, 0, None)  # whose copying then says that it has gone
                found.append(DirectoryEntry(entry.name, facts))
        return sorted(found)

    def enter(self, entry: DirectoryEntry) -> "LocalFolder":
        return self._open(entry.name, is_new=False)

    def make(self, name: str, perm: int) -> "LocalFolder":  # noqa: ARG002 - `settle` gives it
        below = self.spot.below(name)
        is_new = True
        with telling(below.path):
            try:
                os.mkdir(name, _OWN_PERM, dir_fd=self._fd)
            except FileExistsError:
                is_new = False
                if not stat.S_ISDIR(os.stat(name, dir_fd=self._fd, follow_symlinks=False).st_mode):
                    raise CallFailed(f"{below.path!r} is there and is not a directory") from None
        return self._open(name, is_new=is_new)

    def settle(self, perm: int) -> None:
        with telling(self.spot.path):
            os.fchmod(self._fd, perm & KEPT_PERM)

    def source(self, entry: DirectoryEntry) -> LocalSource:
        return LocalSource.open(self.spot.below(entry.name).path, entry.name, self._fd)

    def target(self, name: str) -> LocalTarget:
        return LocalTarget(self.spot.below(name).path, self._fd, name)

    def close(self) -> None:
        os.close(self._fd)

    def _open(self, name: str, *, is_new: bool) -> "LocalFolder":
        below = self.spot.below(name)
        with telling(below.path):
            fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=self._fd)
        return LocalFolder(below, fd, is_new=is_new)


class NodeFolder(Folder):
    """A directory of a node, by its path there. Nothing is written through a link below ``root``."""

    def __init__(
        self,
        nodes: Nodes,
        spot: Spot,
        identity: str | None,
        *,
        root: str | None = None,
        is_new: bool = False,
    ) -> None:
        super().__init__(spot, identity, is_new=is_new)
        self._nodes = nodes
        self._node = str(spot.node)
        #: The directory that was named by whoever copies: by default this one.
        self._root = spot.path if root is None else root

    def entries(self) -> list[DirectoryEntry]:
        return self._nodes.entries(self._node, self.spot.path)

    def enter(self, entry: DirectoryEntry) -> "NodeFolder":
        return NodeFolder(self._nodes, self._below(entry.name), entry.facts.identity, root=self._root)

    def make(self, name: str, perm: int) -> "NodeFolder":
        below = self._below(name)
        is_new = self.is_new or not self._is_there(below)
        # One that is there keeps what it has; the node refuses what only leads to a directory.
        bits = perm & KEPT_PERM | _OWN_PERM if is_new else None
        made = self._nodes.make_dir(self._node, below.path, bits, self._root)
        return NodeFolder(self._nodes, below, made, root=self._root, is_new=is_new)

    def settle(self, perm: int) -> None:
        if perm & _OWN_PERM != _OWN_PERM:  # else `make` has given it already
            self._nodes.make_dir(self._node, self.spot.path, perm & KEPT_PERM, self._root)

    def source(self, entry: DirectoryEntry) -> NodeSource:
        return NodeSource(self._nodes, self._below(entry.name), entry.facts)

    def target(self, name: str) -> NodeTarget:
        return NodeTarget(self._nodes, self._below(name), root=self._root)

    def close(self) -> None:
        """Nothing is open between two calls."""

    def _is_there(self, spot: Spot) -> bool:
        try:
            kind = self._nodes.stat(self._node, spot.path).kind
        except FileMissing:
            return False
        if kind != "dir":
            raise CallFailed(f"{str(spot)!r} is there and is not a directory")
        return True

    def _below(self, name: str) -> Spot:
        below = self.spot.below(name)
        if len(os.fsencode(below.path)) > _MAX_PATH:
            raise CallFailed(f"{str(self.spot)[:64]!r}…: the directories are nested too deep")
        return below


def check_name(folder: Spot, name: str) -> None:
    """Raises CallFailed for what can't be the name of an entry: a node could say anything."""
    if name in {"", ".", ".."} or "/" in name or "\0" in name or len(os.fsencode(name)) > _MAX_NAME:
        raise CallFailed(f"{str(folder)!r} lists {name[:_MAX_NAME]!r}, which is no name: it is left out")
