"""Files of nodes as sources and targets of copies."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Full, Queue
from typing import TYPE_CHECKING

from hermes_nodes.copying.local import KEPT_PERM
from hermes_nodes.copying.nodes import Nodes, named
from hermes_nodes.copying.spots import Spot
from hermes_nodes.errors import CallFailed, FileMissing, HermesNodesError, NotAllowed
from hermes_nodes.file_calls import FileFacts
from hermes_nodes.protocol.parts import TRAILER_BYTES, Held, held_by, part_name

if TYPE_CHECKING:
    from hashlib import _Hash

#: Bytes that a file may turn out to have of which its node says that it is empty, as those of /proc, or
#: can't say how long it is.
_UNTOLD_MOST = 64 << 20
#: A file of more bytes is looked at again after it was read; a smaller one is read in one go.
_LOOK_AGAIN = 1 << 20
#: Pieces that wait between two nodes, of half a MiB at most.
_WAITING = 8
#: Seconds between two looks at whether the other side has gone.
_LOOK = 0.2


class NodeSource:
    """A file of a node; ``facts`` is None where its node can't tell."""

    def __init__(self, nodes: Nodes, spot: Spot, facts: FileFacts | None) -> None:
        self.shown = str(spot)
        self._nodes = nodes
        self._spot = spot
        self._facts = facts
        #: None where it isn't known.
        self.size_bytes = facts.size_bytes or None if facts else None
        self.perm = facts.perm & KEPT_PERM if facts else None

    def close(self) -> None:
        """Nothing is open between two calls."""

    def read(
        self,
        output: Callable[[memoryview], object],
        *,
        offset: int = 0,
        before: "_Hash | None" = None,
        watch: int | None = None,
    ) -> str:
        """Its content from ``offset`` on, of which ``before`` is the hash; gives the SHA-256 of the whole.

        Raises CallFailed where it changes meanwhile, or where the node sends more than it said.
        """
        size = self.size_bytes
        left = (size if size is not None else _UNTOLD_MOST) - offset

        def take(piece: memoryview) -> None:
            nonlocal left
            left -= len(piece)
            if left < 0:
                raise self._changed()
            output(piece)

        result = self._nodes.client.read(
            str(self._spot.node),
            named(self._spot.path),
            take,
            offset=offset,
            length=None if offset else size,
            before=before,
            watch=() if watch is None else (watch,),
            interrupt=self._nodes.interrupt,
            note=self._nodes.say,
        )
        if size is not None and left:
            raise self._changed()
        self._look_again()
        return result.sha256

    @contextmanager
    def opened(self) -> Iterator[Iterator[memoryview]]:
        """The content from its beginning, read by a thread as fast as it is taken here."""
        reading = _Reading(self)
        try:
            yield reading.blocks()
        finally:
            reading.stop()

    def _look_again(self) -> None:
        if self._facts is None or self._facts.size_bytes <= _LOOK_AGAIN:
            return
        now = self._nodes.stat(str(self._spot.node), self._spot.path)
        if (now.size_bytes, now.mtime) != (self._facts.size_bytes, self._facts.mtime):
            raise self._changed()

    def _changed(self) -> CallFailed:
        return CallFailed(f"{self.shown!r} changed while it was read", "copy it again")


class _Reading:
    """One read in a thread of its own, whose pieces wait in a short queue."""

    def __init__(self, source: NodeSource) -> None:
        self._source = source
        self._queue: Queue[memoryview | Exception | None] = Queue(_WAITING)
        # The call ends when this pipe has no reader any more.
        self._listener, self._watched = os.pipe()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def blocks(self) -> Iterator[memoryview]:
        while (item := self._queue.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item

    def stop(self) -> None:
        """End the call, if it has not ended."""
        self._is_over.set()
        os.close(self._listener)
        self._thread.join()
        os.close(self._watched)

    def _read(self) -> None:
        try:
            self._source.read(self._put, watch=self._watched)
        except (HermesNodesError, OSError) as error:
            self._put(error)
        else:
            self._put(None)

    def _put(self, item: memoryview | Exception | None) -> None:
        while not self._is_over.is_set():
            try:
                self._queue.put(item, timeout=_LOOK)
            except Full:
                continue
            return
        if not isinstance(item, Exception):
            raise BrokenPipeError


class NodeTarget:
    """A file of a node that is to be written, through no link below ``root``."""

    def __init__(self, nodes: Nodes, spot: Spot, *, root: str | None = None) -> None:
        self.shown = str(spot)
        self.node = str(spot.node)
        self.path = spot.path
        self.root = root
        self._nodes = nodes

    @property
    def takes_perm(self) -> bool:
        """Whether its node can be told a file's permissions."""
        return self._nodes.has_fs(self.node)

    def held(self) -> Held | None:
        """What a broken transfer has left of it, if anything."""
        if not self._nodes.has_fs(self.node):
            return None
        folder, slash, name = self.path.rpartition("/")
        part = f"{folder}{slash}{part_name(name)}"
        try:
            kind, size, *_ = self._nodes.stat(self.node, part)
            is_one = kind == "file" and size > TRAILER_BYTES
            end = self._end_of(part, size) if is_one else b""
        except (FileMissing, NotAllowed):
            return None
        return held_by(end, size)

    def _end_of(self, part: str, size: int) -> bytes:
        end = bytearray()

        def take(piece: memoryview) -> None:
            end.extend(piece)
            if len(end) > TRAILER_BYTES:
                raise CallFailed(f"node {self.node!r} sends more than it was asked for")

        def read() -> None:
            end.clear()
            self._nodes.client.read(
                self.node, part, take, offset=size - TRAILER_BYTES, length=TRAILER_BYTES
            )

        self._nodes.patiently(read)
        return bytes(end)
