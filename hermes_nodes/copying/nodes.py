"""The gateway's nodes as copying needs them: calls that wait for their turn, and what a node can do."""

import select
from collections.abc import Callable
from typing import Protocol, TypeVar

from hermes_nodes.client import Client, not_connected
from hermes_nodes.errors import (
    CallCancelled,
    CallFailed,
    RateLimited,
    UnknownNode,
    Unsupported,
)
from hermes_nodes.file_calls import DirectoryEntry, FileFacts

_T = TypeVar("_T")
#: Seconds until a call is tried again that the gateway's rate limit, so many a second, has turned away.
_TURN = 0.05
#: Entries of one directory. A node could send them without an end.
MAX_ENTRIES = 1_000_000


class Progress(Protocol):
    """Hears how far a file has come, in bytes."""

    def begin(self, name: str, size_bytes: int | None) -> None: ...
    def skip(self, size: int) -> None: ...
    def advance(self, size: int) -> None: ...
    def end(self) -> None: ...


class Nodes:
    """One gateway's nodes; a byte on ``interrupt`` ends whatever is under way (CallCancelled)."""

    def __init__(
        self, client: Client, progress: Progress, say: Callable[[str], object], interrupt: int | None = None
    ) -> None:
        self.client = client
        self.progress = progress
        #: Gets sentences worth knowing.
        self.say = say
        self.interrupt = interrupt
        self._capabilities: dict[str, list[str]] = {}

    def check_interrupt(self) -> None:
        if self.interrupt is not None and select.select([self.interrupt], [], [], 0)[0]:
            raise CallCancelled("the copy was interrupted")

    def patiently(self, work: Callable[[], _T]) -> _T:
        """The result of one call, made again for as long as the gateway's rate limit turns it away."""
        while True:
            try:
                return work()
            except RateLimited:
                waited_on = [] if self.interrupt is None else [self.interrupt]
                select.select(waited_on, [], [], _TURN)
                self.check_interrupt()

    def has_fs(self, node: str) -> bool:
        """Whether a node can tell directories from files; raises UnknownNode, NodeNotConnected."""
        if node not in self._capabilities:
            view = next((view for view in self.client.nodes(node) if view["name"] == node), None)
            if view is None:
                raise UnknownNode(node)
            if view["state"] != "connected":
                raise not_connected(view)
            listed = view["capabilities"]
            self._capabilities[node] = listed if isinstance(listed, list) else []
        return "fs" in self._capabilities[node]

    def need_fs(self, node: str, what: str) -> None:
        """Raises Unsupported where a node can't do ``what``."""
        if not self.has_fs(node):
            raise Unsupported.older(node, f"can't {what} (`fs`)")

    def stat(self, node: str, path: str) -> FileFacts:
        """What is at a path of a node that has ``fs``."""
        return self.patiently(lambda: self.client.stat(node, named(path), interrupt=self.interrupt))

    def make_dir(self, node: str, path: str, perm: int | None, root: str) -> str | None:
        """The identity of a directory that is there then."""
        return self.patiently(
            lambda: self.client.make_dir(
                node, named(path), perm=perm, root=named(root), interrupt=self.interrupt
            )
        )

    def entries(self, node: str, path: str) -> list[DirectoryEntry]:
        """All of a directory, sorted by name; raises CallFailed where there is no end of it."""

        def attempt() -> list[DirectoryEntry]:
            found: list[DirectoryEntry] = []

            def take(entry: DirectoryEntry) -> None:
                if len(found) >= MAX_ENTRIES:
                    raise CallFailed(f"{node}:{path}: more than {MAX_ENTRIES} entries in one directory")
                found.append(entry)

            self.client.list_dir(node, named(path), take, interrupt=self.interrupt)
            return sorted(found, key=lambda entry: entry.name)

        return self.patiently(attempt)


def named(path: str) -> str:
    """The path, if a call can name it: in JSON, names are UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise CallFailed(
            f"{path!r}: a name that is not UTF-8 can't be sent to a node", "rename it, or pack it with tar"
        ) from error
    return path
