"""Operators of a gateway under attack, requests byte by byte, and our own node inside a test."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from hermes_nodes.audit import AuditLog
from hermes_nodes.client import Client
from hermes_nodes.gateway import Gateway
from hermes_nodes.gateway.openapi import plain_path
from hermes_nodes.gateway.routes import ROUTES
from hermes_nodes.node.agent import NodeAgent
from hermes_nodes.node.config import NodeConfig
from tests.harness import Home
from tests.support import PATIENCE

LISTEN = {"HERMES_NODES_CONTROL_LISTEN": "127.0.0.1:0"}
#: Every request line that the control API knows, as one about the node `laptop`.
REQUESTS = [
    f"{route.method} {plain_path(route)}".replace("{name}", "laptop").replace("{call}", "exec")
    for route in ROUTES
]


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        found = json.loads(self.body)["error"]
        assert isinstance(found, dict)
        return found


def port_of(gateway: Gateway) -> int:
    """Where it listens for operators."""
    return urlsplit(gateway.control_url or "").port or 0


async def ask(
    gateway: Gateway,
    line: str,
    token: str = "",
    *,
    headers: Mapping[str, str] | None = None,
    body: object = None,
) -> Reply:
    """One request to `control_listen`, to the end of the connection."""
    content = b"" if body is None else json.dumps(body).encode()
    port = port_of(gateway)
    given = {"Host": f"127.0.0.1:{port}", "Content-Length": str(len(content)), **(headers or {})}
    if token:
        given["Authorization"] = f"Bearer {token}"
    head = f"{line} HTTP/1.1\r\n" + "".join(f"{key}: {value}\r\n" for key, value in given.items())
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(head.encode() + b"\r\n" + content)
        raw = await asyncio.wait_for(reader.read(), PATIENCE)
    finally:
        writer.transport.abort()
    top, _, rest = raw.partition(b"\r\n\r\n")
    first, *lines = top.decode().split("\r\n")
    found = dict(one.lower().split(": ", 1) for one in lines)
    whole = _joined(rest) if found.get("transfer-encoding") == "chunked" else rest
    return Reply(int(first.split()[1]), found, whole)


def _joined(chunks: bytes) -> bytes:
    """What was sent in chunks (RFC 9112 section 7.1)."""
    joined = b""
    while chunks:
        size, _, rest = chunks.partition(b"\r\n")
        joined, chunks = joined + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return joined


# -- operators ------------------------------------------------------------------------------------


async def add(home: Home, name: str, *verbs: str, nodes: str = "all", **options: Any) -> str:
    """A new operator's token."""
    made = await asyncio.to_thread(home.client.add_operator, name, allow=verbs, nodes=nodes, **options)
    return str(made["token"])


def client_of(gateway: Gateway, token: str) -> Client:
    return Client(gateway.control_url, token=token, environ={})


async def operator(
    home: Home, gateway: Gateway, *verbs: str, name: str = "ci", nodes: str = "all", **options: Any
) -> Client:
    """Somebody with these verbs on these nodes, over the network."""
    return client_of(gateway, await add(home, name, *verbs, nodes=nodes, **options))


# -- our node -------------------------------------------------------------------------------------


class OurNode:
    """`node run` without its process: what it does shows as states, each with its reason."""

    def __init__(self) -> None:
        self.states: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    async def state(self, *wanted: str) -> tuple[str, str]:
        """The next state of these, and its reason."""
        async with asyncio.timeout(PATIENCE):
            while (state := await self.states.get())[0] not in wanted:
                pass
        return state


@asynccontextmanager
async def our_node(
    url: str, name: str, token: str, folder: Path, *, allow: tuple[str, ...] = ()
) -> AsyncIterator[OurNode]:
    folder.mkdir(exist_ok=True)
    settings = NodeConfig(
        path=folder / "config.toml",
        server_url=url,
        name=name,
        token=token,
        allowed_paths=list(allow),
        backoff_initial=30.0,  # one attempt is what a test looks at
    )
    node = OurNode()
    with AuditLog(folder / "audit.log") as trail:
        agent = NodeAgent(settings, trail, lambda *state: node.states.put_nowait(state))
        running = asyncio.create_task(agent.run())
        try:
            yield node
        finally:
            agent.stop()
            await running
