"""`read` and `write` on this node: files of any size through windows, their disk work in threads."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from hermes_nodes.errors import HermesNodesError
from hermes_nodes.node.calls import NodeCall, Place, until_cancelled
from hermes_nodes.node.files import Reader, Writer
from hermes_nodes.protocol.messages import Read, ReadResult, Write, WriteResult
from hermes_nodes.protocol.stream import STDIN, STDOUT

#: Bytes read from a disk at a time: enough that the thread's cost does not show.
DISK_BYTES = 1024 * 1024
_File = TypeVar("_File")


async def read(place: Place, call: NodeCall, request: Read) -> ReadResult:
    """Send a file's content on channel 1; raises what the file could not be read for."""

    def open_file() -> Reader:
        return Reader.open(place.allowlist, request.path, request.offset, request.length)

    async with _opened(open_file, Reader.close) as reader:
        content = FileSource(reader, lambda: place.stream.wake(call.id, STDOUT))
        place.stream.send_from(call.id, STDOUT, call.counted(content))
        await until_cancelled(call, content.finished())
        return ReadResult(status="ok", id=call.id, size_bytes=reader.bytes_read, sha256=reader.sha256)


async def write(place: Place, call: NodeCall, request: Write) -> WriteResult:
    """Take a file's content from channel 0; raises what it could not be written for."""

    def open_file() -> Writer:
        return Writer.open(place.allowlist, request.path, request.mode, request.perm, request.size_bytes)

    async with _opened(open_file, Writer.abort) as writer:
        await until_cancelled(call, _receive(place, call, writer))
        # From here on a cancel is not heard: no answer of `cancelled` beside a file that has changed.
        written, digest = await asyncio.to_thread(writer.finish)
        return WriteResult(status="ok", id=call.id, bytes_written=written, sha256=digest)


async def _receive(place: Place, call: NodeCall, writer: Writer) -> None:
    while piece := await call.next_input():
        await asyncio.to_thread(writer.feed, piece)
        place.stream.took(call.id, STDIN, len(piece))


@asynccontextmanager
async def _opened(open_file: Callable[[], _File], close: Callable[[_File], None]) -> AsyncIterator[_File]:
    """A file opened and closed in threads: a disk may take its time."""
    file = await asyncio.to_thread(open_file)
    try:
        yield file
    finally:
        await asyncio.to_thread(close, file)


class FileSource:
    """A file's content, read ahead by one block: a stream Source."""

    def __init__(self, reader: Reader, wake: Callable[[], None]) -> None:
        self._reader = reader
        self._wake = wake
        self._block = memoryview(b"")
        self._next: asyncio.Task[bytes] | None = None
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def pull(self, limit: int) -> memoryview | None:
        if self._end.done() or (not self._block and not self._take_block()):
            return None
        piece, self._block = self._block[:limit], self._block[limit:]
        if not piece:
            self._end.set_result(None)
        return piece

    async def finished(self) -> None:
        """Wait until the end has been pulled; raises what reading failed with."""
        try:
            await self._end
        finally:
            if self._next is not None:
                await asyncio.wait([self._next])

    def _take_block(self) -> bool:
        """Move to the block that was read ahead, if it is there; start on the one behind it."""
        if self._next is None:
            self._read_ahead()
        elif self._next.done():
            return self._move_on(self._next)
        return False

    def _move_on(self, block: asyncio.Task[bytes]) -> bool:
        try:
            self._block = memoryview(block.result())
        except HermesNodesError as error:
            self._end.set_exception(error)
            return False
        if self._block:
            self._read_ahead()
        return True

    def _read_ahead(self) -> None:
        self._next = asyncio.create_task(asyncio.to_thread(self._reader.chunk, DISK_BYTES))
        self._next.add_done_callback(lambda _: self._wake())
