"""Files on this node: `read` and `write` of any size through windows, and the calls of `fs`.

What waits for a disk does so in threads.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar, assert_never

from hermes_nodes.errors import CallCancelled, HermesNodesError
from hermes_nodes.node import directories
from hermes_nodes.node.calls import NodeCall, Place, until_cancelled
from hermes_nodes.node.directories import Listing
from hermes_nodes.node.files import Reader, Writer
from hermes_nodes.protocol.messages import (
    ListDir,
    ListDirResult,
    MakeDir,
    MakeDirResult,
    Read,
    ReadResult,
    Stat,
    StatResult,
    Write,
    WriteResult,
)
from hermes_nodes.protocol.stream import STDIN, STDOUT

#: Bytes read from a disk at a time: enough that the thread's cost does not show.
DISK_BYTES = 1024 * 1024
#: Bytes of a listing made at a time: some hundred entries, of which each is a look at the disk.
LIST_BYTES = 64 * 1024
_File = TypeVar("_File")


class Chunked(Protocol):
    """What has an end, and is read by a piece at a time in threads."""

    def chunk(self, size: int, /) -> bytes: ...


async def carry_out(
    place: Place, call: NodeCall, request: Read | Write | Stat | ListDir | MakeDir
) -> ReadResult | WriteResult | StatResult | ListDirResult | MakeDirResult:
    """The call's answer; raises what it failed with, and CallCancelled."""
    match request:
        case Read():
            return await read(place, call, request)
        case Write():
            return await write(place, call, request)
        case Stat():
            return await stat(place, call, request)
        case ListDir():
            return await list_dir(place, call, request)
        case MakeDir():
            return await make_dir(place, call, request)
        case _:
            assert_never(request)


async def read(place: Place, call: NodeCall, request: Read) -> ReadResult:
    """Send a file's content on channel 1; raises what the file could not be read for.

    From an offset to the end, what is hashed is the whole file: whoever has the rest compares with that.
    """

    def open_file() -> Reader:
        return Reader.open(place.allowlist, request.path, request.offset, request.length)

    async with _opened(open_file, Reader.close) as reader:
        if request.offset and request.length is None:
            await until_cancelled(call, _recall(reader))
        await _send(place, call, reader, DISK_BYTES)
        return ReadResult(status="ok", id=call.id, size_bytes=reader.bytes_read, sha256=reader.sha256)


async def write(place: Place, call: NodeCall, request: Write) -> WriteResult:
    """Take a file's content from channel 0; raises what it could not be written for."""

    def open_file() -> Writer:
        return Writer.open(
            place.allowlist,
            request.path,
            request.mode,
            request.perm,
            request.size_bytes,
            offset=request.offset,
            root=request.root,
            kept=place.lasting.parts,
        )

    async with _opened(open_file, Writer.abort) as writer:
        try:
            if request.offset:
                await until_cancelled(call, _recall(writer))
            await until_cancelled(call, _receive(place, call, writer))
        except CallCancelled:
            if call.keeps:
                await asyncio.to_thread(writer.keep)
            raise
        # From here on a cancel is not heard: no answer of `cancelled` beside a file that has changed.
        written, digest = await asyncio.to_thread(writer.finish)
        return WriteResult(status="ok", id=call.id, bytes_written=written, sha256=digest)


async def stat(place: Place, call: NodeCall, request: Stat) -> StatResult:
    """What is at a path; raises what keeps it from being told."""
    found = await asyncio.to_thread(directories.stat_path, place.allowlist, request.path)
    return StatResult(status="ok", id=call.id, **found._asdict())


async def list_dir(place: Place, call: NodeCall, request: ListDir) -> ListDirResult:
    """Send a directory's entries as NDJSON on channel 1; raises what it could not be read for."""

    def open_directory() -> Listing:
        return Listing.open(place.allowlist, request.path)

    async with _opened(open_directory, Listing.close) as listing:
        await _send(place, call, listing, LIST_BYTES)
        return ListDirResult(status="ok", id=call.id)


async def make_dir(place: Place, call: NodeCall, request: MakeDir) -> MakeDirResult:
    """Make a directory; raises what keeps it from being made."""
    made = await asyncio.to_thread(
        directories.make_dir, place.allowlist, request.path, request.perm, request.root
    )
    return MakeDirResult(status="ok", id=call.id, identity=made)


async def _send(place: Place, call: NodeCall, content: Chunked, block_bytes: int) -> None:
    """All of it on channel 1; raises CallCancelled, and what reading failed with."""
    source = FileSource(content, lambda: place.stream.wake(call.id, STDOUT), block_bytes)
    place.stream.send_from(call.id, STDOUT, call.counted(source))
    await until_cancelled(call, source.finished())


async def _recall(file: Reader | Writer) -> None:
    """Hash what lies before the offset, a step at a time so that a cancel is heard in between."""
    while await asyncio.to_thread(file.recall):
        pass


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
    """Content that is read ahead by one block of so many bytes: a stream Source."""

    def __init__(self, reader: Chunked, wake: Callable[[], None], block_bytes: int) -> None:
        self._reader = reader
        self._block_bytes = block_bytes
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
        self._next = asyncio.create_task(asyncio.to_thread(self._reader.chunk, self._block_bytes))
        self._next.add_done_callback(lambda _: self._wake())
