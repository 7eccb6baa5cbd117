"""What a caller sends to a command's stdin: as much at a time as the command takes."""

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress

from hermes_nodes.node.calls import NodeCall


class Input:
    """The writing end of a command's stdin.

    ``took`` hears of the bytes that went in, and ``ending`` that the end is meant, just before it comes.
    ``last_words`` gives what ends the input of a terminal, from the last byte before; what is no terminal
    is closed instead.
    """

    def __init__(
        self,
        fd: int,
        took: Callable[[int], object],
        ending: Callable[[], object],
        last_words: Callable[[bytes], bytes] | None = None,
    ) -> None:
        self._fd = fd
        self._took = took
        self._ending = ending
        self._last_words = last_words
        self._last = b""
        os.set_blocking(fd, False)

    async def feed_from(self, call: NodeCall) -> None:
        """Write what comes until its end; returns quietly when the command reads no more.

        Then no more is taken either, which stops the caller's upload.
        """
        with suppress(BrokenPipeError, OSError):  # EPIPE of a pipe, EIO of a terminal
            while piece := await call.next_input():
                await self._write(piece, self._took)
                self._last = bytes(piece[-1:])
            if self._last_words is not None:
                await self._write(memoryview(self._last_words(self._last)), lambda _: None)
                return
        self.close()

    def close(self) -> None:
        """The end of the input, if that has not come yet."""
        if self._fd >= 0:
            self._ending()
            os.close(self._fd)
            self._fd = -1

    async def _write(self, piece: memoryview, took: Callable[[int], object]) -> None:
        while piece:
            try:
                written = os.write(self._fd, piece)
            except BlockingIOError:
                await self._room()
            else:
                took(written)
                piece = piece[written:]

    async def _room(self) -> None:
        """Wait until the command has read some of it."""
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_writer(self._fd, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_writer(self._fd)
