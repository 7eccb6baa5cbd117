"""TLS handshakes under way count among the connections, with uvloop as `serve` has it and without."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import urlsplit

import pytest

from tests.certificates import Authority
from tests.gateway.support import RawPeer, raw_peer
from tests.harness import Home
from tests.network import LOOPBACK
from tests.support import PATIENCE

MOST = 3
REQUEST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Place:
    """A gateway with TLS that takes few connections on each of its ports."""

    def __init__(self, authority: Authority, ports: dict[str, int]) -> None:
        self._trust = ssl.create_default_context(cafile=str(authority.ca))
        self.ports = ports

    async def answers(self, port: str) -> bool:
        """Whether one more connection gets an answer to its request, sent as soon as TLS allows."""
        try:
            async with asyncio.timeout(PATIENCE):
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", self.ports[port], ssl=self._trust, server_hostname="localhost"
                )
                try:
                    writer.write(REQUEST)
                    return (await reader.read()).startswith(b"HTTP/1.1 ")
                finally:
                    writer.transport.abort()
        except OSError:
            return False

    async def comes_to_answer(self, port: str) -> None:
        """Wait until one more gets in: a place that was taken is free when the gateway has seen its end."""
        async with asyncio.timeout(PATIENCE):
            while not await self.answers(port):
                pass

    @asynccontextmanager
    async def full_of_silence(self, port: str) -> AsyncIterator[list[RawPeer]]:
        """As many connections as there may be, which have said nothing yet."""
        async with AsyncExitStack() as stack:
            yield [
                await stack.enter_async_context(raw_peer("127.0.0.1", self.ports[port]))
                for _ in range(MOST)
            ]


@asynccontextmanager
async def running(home: Home, loop: str, **more: str) -> AsyncIterator[Place]:
    authority = Authority(home.folder / "authority")
    environ = {**LOOPBACK, **authority.environ, "HERMES_NODES_MAX_CONNECTIONS": str(MOST), **more}
    if loop == "asyncio":
        async with home.gateway_here(**environ) as gateway:
            url = urlsplit(gateway.control_url or "")
            yield Place(authority, {"nodes": gateway.port, "operators": url.port or 0})
    else:
        with home.gateway(**environ) as process:
            url = urlsplit(process.control_url)
            yield Place(authority, {"nodes": process.port, "operators": url.port or 0})


@pytest.fixture(params=["asyncio", "uvloop"])
async def place(home: Home, request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    async with running(home, request.param) as made:
        yield made


@pytest.mark.parametrize("port", ["nodes", "operators"])
async def test_no_more_handshakes_are_under_way_than_connections_may_be(place: Place, port: str) -> None:
    assert await place.answers(port)
    async with place.full_of_silence(port) as peers:
        async with raw_peer("127.0.0.1", place.ports[port]) as one_more:
            assert await one_more.rest() == b""  # at once, and not when its time is over
        assert not await place.answers(port)
        peers[0].writer.close()
        await place.comes_to_answer(port)


@pytest.mark.parametrize("port", ["nodes", "operators"])
async def test_a_handshake_that_fails_gives_its_place_back(place: Place, port: str) -> None:
    for _ in range(MOST + 1):
        async with raw_peer("127.0.0.1", place.ports[port]) as peer:
            await peer.send(REQUEST)
            await peer.rest()
    async with raw_peer("127.0.0.1", place.ports[port]) as peer:
        await peer.send(b"\x16\x03\x01")  # and no more of its record
    await place.comes_to_answer(port)


@pytest.mark.parametrize("port", ["nodes", "operators"])
async def test_connections_that_were_answered_give_their_places_back(place: Place, port: str) -> None:
    for _ in range(2 * MOST):
        await place.comes_to_answer(port)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_a_handshake_that_takes_too_long_gives_its_place_back(home: Home, loop: str) -> None:
    async with (
        running(home, loop, HERMES_NODES_HANDSHAKE_TIMEOUT_SECONDS="0.5") as place,
        place.full_of_silence("nodes") as peers,
    ):
        for peer in peers:
            assert await peer.rest() == b""
        await place.comes_to_answer("nodes")


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_a_handshake_under_way_does_not_hold_up_the_gateways_end(home: Home, loop: str) -> None:
    async with AsyncExitStack() as later:
        async with running(home, loop) as place:
            peers = await later.enter_async_context(place.full_of_silence("nodes"))
            assert not await place.answers("nodes")  # so each of them has been accepted
            began = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - began < 5
        for peer in peers:
            assert await peer.rest() == b""
