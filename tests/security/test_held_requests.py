"""What an operator had begun before it was removed does not go on afterwards."""

import asyncio
import json
from urllib.parse import urlsplit

import pytest

from tests.harness import Home


@pytest.mark.parametrize("method", ["POST /v1/pairings", "PATCH /v1/pairings/laptop"])
async def test_a_request_whose_body_was_held_back_until_its_operator_was_removed(
    tmp_path_factory: pytest.TempPathFactory, method: str
) -> None:
    home = Home(tmp_path_factory.mktemp("held"))
    async with home.gateway_here(HERMES_NODES_CONTROL_LISTEN="127.0.0.1:0") as gateway:
        await asyncio.to_thread(home.client.pair, "laptop")
        made = await asyncio.to_thread(home.client.add_operator, "adm", allow=["pair", "label"])
        url = urlsplit(gateway.control_url or "")
        reader, writer = await asyncio.open_connection(url.hostname, url.port)
        body = json.dumps({"name": "ghost"} if "POST" in method else {"labels": {"a": "b"}}).encode()
        head = (
            f"{method} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {made['token']}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body[:-1])
        await writer.drain()
        await asyncio.to_thread(home.client.remove_operator, "adm")
        writer.write(body[-1:])
        async with asyncio.timeout(10):
            answer = await reader.read()
        writer.close()
        # Whether the gateway had seen the head by then or not.
        assert answer.split(b" ", 2)[1] in (b"401", b"403")
        (view,) = await asyncio.to_thread(home.client.nodes)
        assert (view["name"], view["labels"]) == ("laptop", {})
