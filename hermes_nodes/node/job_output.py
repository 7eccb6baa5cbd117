"""What a detached job prints: from its pipe to its file, within bounds, and from there to whoever asks."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from hermes_nodes.node.job_files import JobFolder, StreamName
from hermes_nodes.node.processes import Output

_T = TypeVar("_T")
#: Bytes moved at a time: a pipe holds no more.
_BLOCK = 256 * 1024
#: Seconds of rest after a block that is thrown away. A job that prints for ever would else take all of the
#: node's processor; with this it takes a tenth at most, and is held back to some 200 MB/s.
_DISCARD_PAUSE = 0.001
#: Threads for the jobs' disk work. Their own, as a disk that hangs must not hold up other calls' ends.
_THREADS = 8


class Disk:
    """Runs blocking work of the jobs in threads."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="jobs")

    async def run(self, work: Callable[..., _T], *arguments: object) -> _T:
        """The work's result, or what it raises."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)

    def close(self) -> None:
        self._pool.shutdown(wait=False)


class KeptStream:
    """How much is kept of one stream, and who wants to hear of more."""

    def __init__(self, folder: JobFolder, name: StreamName, *, size: int = 0, whole: bool = False) -> None:
        self.folder = folder
        self.name = name
        #: Bytes in the file.
        self.size = size
        #: Nothing more will come.
        self.is_whole = whole
        #: There was more, which was thrown away.
        self.is_cut = False
        #: Why it could not be kept, in the system's words.
        self.failure: str | None = None
        self._watchers: set[Callable[[], None]] = set()

    def watch(self, tell: Callable[[], None]) -> None:
        """``tell`` is called at every change, until ``unwatch``."""
        self._watchers.add(tell)

    def unwatch(self, tell: Callable[[], None]) -> None:
        self._watchers.discard(tell)

    def grow(self, size: int) -> None:
        self.size += size
        self._tell()

    def end(self) -> None:
        self.is_whole = True
        self._tell()

    def _tell(self) -> None:
        for tell in list(self._watchers):
            tell()


class Room(NamedTuple):
    """Where bytes of a disk are asked for, before they are written, and given back."""

    take: Callable[[int], Awaitable[int]]
    give: Callable[[int], None]


class Recorder:
    """Writes one stream of a running job, which comes from ``pipe``, to its file, ``fd``; closes both.

    Past ``most`` bytes, past what ``room`` grants, and after a disk that refused, the rest is read all the
    same and thrown away: the job goes on.
    """

    def __init__(self, pipe: int, fd: int, kept: KeptStream, disk: Disk, most: int, room: Room) -> None:  # noqa: PLR0917
        self._readable = asyncio.Event()
        self._output = Output(pipe, self._readable.set)
        self._fd = fd
        self._kept = kept
        self._disk = disk
        self._most = most
        self._room = room

    async def run(self) -> None:
        """Until the pipe's end, or ``stop``."""
        try:
            while piece := await self._next():
                await self._keep(piece)
        finally:
            self._output.close()
            os.close(self._fd)
            self._kept.end()

    def stop(self) -> None:
        """Take no more of the pipe, though somebody may still hold its other end."""
        if not self._output.ended.is_set():
            self._kept.is_cut = True
            self._output.close()
            self._readable.set()

    async def _next(self) -> bytes:
        while True:
            self._readable.clear()
            piece = self._output.pull(_BLOCK)
            if piece is not None:
                return piece
            await self._readable.wait()

    async def _keep(self, piece: bytes) -> None:
        # Once cut, always cut: what is kept is the beginning, with no gap in it.
        wanted = 0 if self._kept.is_cut else min(len(piece), self._most - self._kept.size)
        granted = await self._room.take(wanted) if wanted else 0
        written = await self._write(memoryview(piece)[:granted]) if granted else 0
        self._room.give(granted - written)
        if written:
            self._kept.grow(written)
        if written < len(piece):
            self._kept.is_cut = True
            await asyncio.sleep(_DISCARD_PAUSE)

    async def _write(self, piece: memoryview) -> int:
        """How many bytes the disk has taken."""
        written = 0
        try:
            while written < len(piece):
                written += await self._disk.run(os.write, self._fd, piece[written:])
        except OSError as error:
            self._kept.failure = error.strerror or str(error)
        return written


class StreamSource:
    """What is kept of a stream, from an offset on: a stream Source.

    It ends where the stream ended when this began; with ``follow`` when the job's output has ended.
    """

    def __init__(
        self, kept: KeptStream, fd: int, disk: Disk, *, offset: int, follow: bool, wake: Callable[[], None]
    ) -> None:
        self._kept = kept
        self._fd = fd
        self._disk = disk
        self._wake = wake
        #: Where the next byte is taken from.
        self.offset = offset
        self._until = None if follow else kept.size
        self._block = memoryview(b"")
        self._reading: asyncio.Task[bytes] | None = None
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def pull(self, limit: int) -> memoryview | bytes | None:
        if self._reading is not None and not self._take_block(self._reading):
            return None
        if not self._block:
            return self._read_on()
        piece, self._block = self._block[:limit], self._block[limit:]
        return piece

    async def finished(self) -> None:
        """Wait until the end has been pulled; raises OSError. Closes the descriptor."""
        self._kept.watch(self._wake)
        self._wake()  # for what has come since it was last pulled from
        try:
            await self._end
        finally:
            self._kept.unwatch(self._wake)
            if self._reading is not None:
                await asyncio.wait([self._reading])
            os.close(self._fd)

    def _read_on(self) -> bytes | None:
        """Start on the next block; empty at the end."""
        if self._end.done():
            return None
        until = self._kept.size if self._until is None else self._until
        if self.offset < until:
            size = min(_BLOCK, until - self.offset)
            self._reading = asyncio.create_task(self._disk.run(os.pread, self._fd, size, self.offset))
            self._reading.add_done_callback(lambda _: self._wake())
            return None
        if self._until is None and not self._kept.is_whole:
            return None
        self._end.set_result(None)
        return b""

    def _take_block(self, reading: asyncio.Task[bytes]) -> bool:
        if not reading.done():
            return False
        self._reading = None
        try:
            block = reading.result()
        except OSError as error:
            if not self._end.done():
                self._end.set_exception(error)
            return False
        if not block:  # somebody has cut the file: what is not there can't be waited for
            self._until = self.offset
        self._block = memoryview(block)
        self.offset += len(block)
        return True
