"""A stranger holds no memory of the gateway's."""

import asyncio

import pytest

from tests.gateway.support import TEXT, frame_header, raw_peer
from tests.harness import MemoryGrowth
from tests.security.place import Place

MIB = 1 << 20


async def flood(place: Place, announced: int, sent: int) -> int | None:
    """Announce a message, send a part of it, and stay; the close code that comes."""
    async with raw_peer(place.gateway.host, place.gateway.port) as peer:
        await peer.upgrade()
        _, code = await asyncio.gather(
            peer.send(frame_header(TEXT, announced) + bytes(sent)), peer.close_code()
        )
        return code


@pytest.mark.parametrize("announced", [15 * MIB, 1 << 40])
async def test_an_unfinished_message_holding_memory(place: Place, announced: int) -> None:
    assert await flood(place, announced, 0) == 1009, "what the first of all costs is not theirs"
    growth = MemoryGrowth(place.gateway.process.pid)
    codes = await asyncio.gather(*(flood(place, announced, 4 * MIB) for _ in range(12)))
    assert codes == [1009] * 12
    assert growth.peak < 2 * MIB


def test_an_unfinished_request_of_an_operator_holding_memory(place: Place) -> None:
    """Who is not known is refused before anything of the body is read."""
    growth = MemoryGrowth(place.gateway.process.pid)
    for _ in range(4):
        answer = place.ask("POST", "/v1/nodes/web/exec", headers={"Content-Length": str(1 << 40)})
        assert answer.status == 401
    assert growth.peak < 2 * MIB
    token = place.token("exec")
    body = b'{"command": "' + b"a" * (2 * MIB) + b'"}'
    assert place.ask("POST", "/v1/nodes/web/exec", token, body).status == 413
