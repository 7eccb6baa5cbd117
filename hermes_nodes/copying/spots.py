"""What is typed for a source or a target: a local path, or NODE:PATH."""

import os
from pathlib import PurePosixPath
from typing import NamedTuple

#: Paths that name no directory to copy, but the place where one stands.
_UNNAMED = {"", ".", "..", "~"}


class Spot(NamedTuple):
    """A path, on a node or here."""

    node: str | None
    path: str

    def __str__(self) -> str:
        return self.path if self.node is None else f"{self.node}:{self.path}"

    @property
    def name(self) -> str:
        """What a copy is called in a directory; empty for a path that ends in no name, such as `.`."""
        name = self.path.rstrip("/").rpartition("/")[2]
        return "" if name in _UNNAMED else name

    @property
    def asks_for_directory(self) -> bool:
        """Whether it can only be a directory by its spelling."""
        return self.path.endswith("/") or not self.name

    def is_within(self, other: "Spot") -> bool:
        """Whether one path leads through the other, as far as their spelling tells."""
        path = PurePosixPath(self.path)  # which drops `.` and `//`
        return path.is_relative_to(other.path) and ".." not in path.parts

    def below(self, name: str) -> "Spot":
        return Spot(self.node, os.path.join(self.path, name))

    @property
    def parent(self) -> "Spot":
        """The directory that it is in, as it is spelt."""
        head = self.path.rstrip("/").rpartition("/")
        return Spot(self.node, head[0] or ("/" if head[1] else "."))


def parse(text: str) -> Spot:
    """As scp does: what has a `:` before any `/` is on a node; `:` at the beginning is a local name."""
    head, colon, path = text.partition(":")
    if colon and head and "/" not in head:
        return Spot(head, path or ".")  # relative paths start at the home of the node's user
    return Spot(None, text)
