"""A command's stdin takes what there is room for, and nobody is told that it took more."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator

import pytest

from hermes_nodes.node.calls import NodeCall
from hermes_nodes.node.inputs import Input
from hermes_nodes.node.wires import pipe
from hermes_nodes.protocol.messages import Exec
from tests.harness import until
from tests.support import PATIENCE


class Feeding:
    """A pipe that is fed from a call."""

    def __init__(self) -> None:
        self.reading, writing = pipe()
        self.call = NodeCall(Exec(id=str(uuid.uuid4()), command="cat", stdin=True))
        self.taken = 0
        self.input = Input(writing, self._took, ending=lambda: None)
        self.task = asyncio.create_task(self.input.feed_from(self.call))

    def _took(self, size: int) -> None:
        self.taken += size

    def feed(self, data: bytes) -> None:
        self.call.feed(memoryview(data))

    async def fed(self) -> None:
        await asyncio.wait_for(self.task, PATIENCE)

    def read(self, size: int) -> bytes:
        return os.read(self.reading, size)


@pytest.fixture
async def feeding() -> AsyncIterator[Feeding]:
    running = Feeding()
    yield running
    running.task.cancel()
    await asyncio.gather(running.task, return_exceptions=True)
    running.input.close()
    if running.reading >= 0:
        os.close(running.reading)


async def test_what_comes_is_written_and_credited(feeding: Feeding) -> None:
    feeding.feed(b"one ")
    feeding.feed(b"two")
    await until(lambda: feeding.taken == 7)
    assert feeding.read(100) == b"one two"
    assert not feeding.task.done()


async def test_only_the_end_of_the_channel_closes_it(feeding: Feeding) -> None:
    feeding.feed(b"text")
    feeding.feed(b"")
    await feeding.fed()
    assert (feeding.read(100), feeding.read(100)) == (b"text", b"")


async def test_a_full_pipe_holds_up_the_feeding_and_nothing_else(feeding: Feeding) -> None:
    size = 2_000_000
    for _ in range(size // 100_000):
        feeding.feed(b"x" * 100_000)
    await until(lambda: feeding.taken > 0)
    await asyncio.sleep(0)  # the loop goes round while the pipe is full
    full = feeding.taken
    assert full < size
    assert not feeding.task.done()
    read = 0
    while read < size:
        read += len(await asyncio.to_thread(feeding.read, 100_000))
    await until(lambda: feeding.taken == size)


async def test_a_reader_that_has_gone_ends_it_quietly_and_takes_no_more(feeding: Feeding) -> None:
    os.close(feeding.reading)
    feeding.reading = -1
    feeding.feed(b"for nobody")
    feeding.feed(b"and more")
    await feeding.fed()
    assert feeding.taken == 0


async def test_a_reader_that_leaves_a_full_pipe_ends_it_too(feeding: Feeding) -> None:
    feeding.feed(b"x" * 1_000_000)
    await until(lambda: feeding.taken > 0)
    os.close(feeding.reading)
    feeding.reading = -1
    await feeding.fed()


async def test_feeding_that_is_cancelled_while_the_pipe_is_full_watches_no_more(feeding: Feeding) -> None:
    feeding.feed(b"x" * 1_000_000)
    await until(lambda: feeding.taken > 0)
    feeding.task.cancel()
    await asyncio.gather(feeding.task, return_exceptions=True)
    taken = feeding.taken
    feeding.read(1_000_000)
    await asyncio.sleep(0)
    assert feeding.taken == taken


async def test_small_pieces_that_wait_take_the_room_of_few() -> None:
    call = NodeCall(Exec(id=str(uuid.uuid4()), command="cat", stdin=True))
    for number in range(100_000):
        call.feed(memoryview(b"%c" % (number % 256)))
    call.feed(memoryview(b""))
    assert len(call._input) < 50
    pieces = []
    while piece := await call.next_input():
        pieces.append(bytes(piece))
    assert b"".join(pieces) == bytes(range(256)) * 390 + bytes(range(160))
    assert call.bytes_in == 100_000
