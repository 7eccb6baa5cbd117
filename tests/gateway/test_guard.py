"""What a peer may cost before it has proved itself."""

import asyncio
import re
import time
from contextlib import nullcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_nodes.gateway import Gateway
from hermes_nodes.gateway.guard import Doorkeeper, Guard, MessageMeter, MessageTooBigError
from hermes_nodes.protocol.messages import LIMIT_BEFORE_AUTH
from tests.gateway.support import (
    BINARY,
    CONTINUATION,
    PING,
    TEXT,
    UPGRADE,
    frame,
    frame_header,
    random_mask,
    raw_peer,
)
from tests.harness import Home, MemoryGrowth, memory_bytes
from tests.support import PATIENCE, SOON

MIB = 1024 * 1024
LIMIT = 1000


# -- the meter, without a network -----------------------------------------------------------------


@st.composite
def messages(draw: st.DrawFn) -> tuple[bytes, int]:
    """Messages in fragments with control frames between, and the size of the longest message."""
    wire, longest = bytearray(), 0
    for _ in range(draw(st.integers(0, 4))):
        sizes = draw(
            st.lists(st.sampled_from([0, 1, 124, 125, 126, 127, 128, 500]), min_size=1, max_size=5)
        )
        longest = max(longest, sum(sizes))
        for number, size in enumerate(sizes):
            if draw(st.booleans()):
                wire += frame_header(PING, 125, mask=random_mask()) + bytes(125)
            opcode = CONTINUATION if number else BINARY
            last = number == len(sizes) - 1
            wire += frame_header(opcode, size, last=last, mask=random_mask()) + bytes(size)
    return bytes(wire), longest


@given(messages(), st.integers(1, 64))
def test_a_meter_sees_the_same_however_the_stream_is_cut(sent: tuple[bytes, int], step: int) -> None:
    wire, longest = sent
    meter = MessageMeter(LIMIT)
    pieces = [wire[start : start + step] for start in range(0, len(wire), step)]
    with pytest.raises(MessageTooBigError) if longest > LIMIT else nullcontext():
        for piece in pieces:
            meter.feed(piece)


@pytest.mark.parametrize("size", [125, 126, 65535, 65536, 15 * MIB, 2**63 - 1])
@pytest.mark.parametrize("masked", [True, False])
def test_a_meter_knows_every_form_of_length_at_every_byte_boundary(size: int, masked: bool) -> None:
    header = frame_header(TEXT, size)
    if not masked:
        header = bytes([header[0], header[1] & 0x7F]) + header[2:-4]
    for cut in range(1, len(header)):
        MessageMeter(size).feed(header[:cut])
        fits = MessageMeter(size)
        fits.feed(header[:cut])
        fits.feed(header[cut:])
        tight = MessageMeter(size - 1)
        tight.feed(header[:cut])
        with pytest.raises(MessageTooBigError):
            tight.feed(header[cut:])


def test_a_meter_refuses_at_the_header_before_any_of_the_message_is_there() -> None:
    with pytest.raises(MessageTooBigError):
        MessageMeter(LIMIT).feed(frame_header(TEXT, LIMIT + 1))


def test_a_meter_adds_up_the_fragments_of_one_message_and_starts_again_at_the_next() -> None:
    meter = MessageMeter(LIMIT)
    for _ in range(3):
        meter.feed(frame(TEXT, bytes(600), last=False) + frame(PING, b"x" * 125))
        meter.feed(frame(CONTINUATION, bytes(400)))
    meter.feed(frame(TEXT, bytes(600), last=False))
    with pytest.raises(MessageTooBigError):
        meter.feed(frame_header(CONTINUATION, 401))


def test_a_limit_may_be_raised_while_a_stream_runs() -> None:
    meter = MessageMeter(LIMIT)
    meter.feed(frame(TEXT, bytes(LIMIT)))
    meter.limit = 2 * LIMIT
    meter.feed(frame(TEXT, bytes(2 * LIMIT)))


# -- the door -------------------------------------------------------------------------------------


def test_a_door_admits_so_many_of_an_address_that_have_not_proved_themselves() -> None:
    door = Doorkeeper(most=100, most_per_address=2)
    assert [door.admit("192.0.2.1") for _ in range(3)] == [True, True, False]
    assert door.admit("192.0.2.2")
    door.authenticated("192.0.2.1")
    assert [door.admit("192.0.2.1") for _ in range(2)] == [True, False]


def test_a_door_forgets_those_who_left() -> None:
    door = Doorkeeper(most=3, most_per_address=1)
    for _ in range(5):
        assert door.admit("192.0.2.1")
        door.left("192.0.2.1", authenticated=False)
        assert door.admit("192.0.2.1")
        door.authenticated("192.0.2.1")
        door.left("192.0.2.1", authenticated=True)


def test_a_door_does_not_bound_loopback_and_trusted_proxies_by_address() -> None:
    door = Doorkeeper(most=10, most_per_address=1, trusted=("10.0.0.0/8",))
    assert all(door.admit(address) for address in ("127.0.0.1", "10.1.2.3", "::1") for _ in range(3))
    assert [door.admit("192.0.2.1") for _ in range(2)] == [True, False]
    # All together are bounded, whoever they are.
    assert not door.admit("127.0.0.1")


# -- over the wire --------------------------------------------------------------------------------


class RecordingTransport(asyncio.Transport):
    """Takes what is written, and nothing else happens."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        pass


async def flood(gateway: tuple[str, int], payload: bytes) -> int | None:
    """Announce a message, send all but its last byte, and stay; the close code that comes."""
    async with raw_peer(*gateway) as peer:
        await peer.upgrade()
        header = frame_header(TEXT, len(payload) + 1)
        _, code = await asyncio.gather(peer.send(header + payload), peer.close_code())
        await peer.rest()
        return code


async def greet(gateway: tuple[str, int]) -> None:
    """A connection that is refused for its first message."""
    async with raw_peer(*gateway) as peer:
        await peer.upgrade()
        await peer.send(frame(TEXT, b"{}"))
        assert await peer.close_code() == 4003


def test_unfinished_messages_cost_kilobytes_and_are_gone_soon(home: Home) -> None:
    with home.gateway() as gateway:
        address = (gateway.host, gateway.port)
        payload = bytes(15 * MIB)
        # What the first connection of all costs, in modules and buffers, is not theirs.
        asyncio.run(greet(address))
        growth = MemoryGrowth(gateway.process.pid)

        async def all_at_once() -> list[int | None]:
            return await asyncio.gather(*(flood(address, payload) for _ in range(16)))

        before = time.monotonic()
        assert asyncio.run(all_at_once()) == [1009] * 16
        assert time.monotonic() - before < 10
        assert growth.peak < 2 * MIB
        assert home.client.status()["nodes_connected"] == 0


async def test_unfinished_messages_of_the_largest_allowed_size_end_with_the_handshake(home: Home) -> None:
    async with home.gateway_here(HERMES_NODES_HANDSHAKE_TIMEOUT_SECONDS="0.3") as gateway:
        assert await flood((gateway.host, gateway.port), bytes(LIMIT_BEFORE_AUTH - 1)) == 4004


@pytest.mark.parametrize("head", [b"", b"G", UPGRADE[:-2]])
async def test_a_head_that_does_not_come_is_not_waited_for(home: Home, head: bytes) -> None:
    async with (
        home.gateway_here(HERMES_NODES_HANDSHAKE_TIMEOUT_SECONDS="0.2") as gateway,
        raw_peer(gateway.host, gateway.port) as peer,
    ):
        await peer.send(head)
        before = time.monotonic()
        assert await peer.rest() == b""
        assert time.monotonic() - before < SOON


@pytest.mark.parametrize(
    "head",
    [
        UPGRADE[:-2] + b"X-Long: " + b"a" * 20_000 + b"\r\n\r\n",
        UPGRADE[:-2] + b"X-Many: 12345678\r\n" * 2000 + b"\r\n",
        b"GET /" + b"a" * 20_000,
        b"\0" * 20_000,
    ],
)
async def test_a_head_over_16_kib_is_refused(gateway: Gateway, head: bytes) -> None:
    async with raw_peer(gateway.host, gateway.port) as peer:
        await peer.send(head)
        answer = await asyncio.wait_for(peer.reader.readline(), PATIENCE)
        assert re.fullmatch(rb"HTTP/1.[01] (431|400) .*\r\n", answer)


async def test_fragments_add_up_to_one_message(gateway: Gateway) -> None:
    async with raw_peer(gateway.host, gateway.port) as peer:
        await peer.upgrade()
        await peer.send(frame(TEXT, b" " * 30_000, last=False))
        await peer.send(frame(CONTINUATION, b" " * 30_000, last=False))
        await peer.send(frame(CONTINUATION, b" " * 30_000))
        assert await peer.close_code() == 1009


async def test_a_message_too_big_is_told_so_however_much_of_it_comes_in_one_piece() -> None:
    transport = RecordingTransport()
    guard = Guard(asyncio.Protocol, Doorkeeper(most=1, most_per_address=1), seconds=10)
    guard.connection_made(transport)
    guard.data_received(UPGRADE)
    guard.data_received(frame_header(TEXT, 15 * MIB) + bytes(MIB))
    assert transport.written == b"\x88\x02\x03\xf1"
    guard.connection_lost(None)


async def test_more_small_messages_than_a_handshake_takes_end_the_connection(gateway: Gateway) -> None:
    async with raw_peer(gateway.host, gateway.port) as peer:
        await peer.upgrade()
        _, code = await asyncio.gather(peer.send(frame(PING, bytes(125)) * 4000), peer.close_code())
        assert code == 1009


async def test_a_control_frame_as_long_as_a_message_is_refused(gateway: Gateway) -> None:
    async with raw_peer(gateway.host, gateway.port) as peer:
        await peer.upgrade()
        await peer.send(frame_header(PING, 15 * MIB) + bytes(1000))
        assert await peer.close_code() in {1002, 1009}


async def test_more_connections_than_there_is_room_for_are_refused(home: Home) -> None:
    async with home.gateway_here(HERMES_NODES_MAX_CONNECTIONS="2") as gateway:
        address = (gateway.host, gateway.port)
        async with raw_peer(*address) as one, raw_peer(*address) as two:
            await one.upgrade()
            await two.upgrade()
            async with raw_peer(*address) as three:
                await three.send(UPGRADE)
                assert await three.rest() == b""
        # One who has left leaves room.
        async with raw_peer(*address) as four:
            await four.upgrade()


def test_hundreds_of_connections_that_say_nothing_cost_little_and_leave(home: Home) -> None:
    with home.gateway(HERMES_NODES_HANDSHAKE_TIMEOUT_SECONDS="0.5") as gateway:
        before = memory_bytes(gateway.process.pid)

        async def idle() -> None:
            async with raw_peer(gateway.host, gateway.port) as peer:
                assert await peer.rest() == b""

        async def all_at_once() -> None:
            await asyncio.gather(*(idle() for _ in range(200)))

        asyncio.run(all_at_once())
        assert memory_bytes(gateway.process.pid) - before < 10 * MIB
