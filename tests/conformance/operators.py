"""Somebody at the gateway's own machine, who pairs, calls and revokes."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from hermes_nodes.client import ExecResult, TransferResult
from tests.conformance.node import Json, Node
from tests.harness import Home
from tests.support import PATIENCE

_T = TypeVar("_T")


class Operator:
    """Acts on one node; a call goes on in the background and is awaited for how it ends."""

    def __init__(self, home: Home, node: str, threads: ThreadPoolExecutor) -> None:
        self.home = home
        self.node = node
        self._client = home.client
        self._threads = threads

    def exec(self, command: str | Sequence[str] = "true", **options: Any) -> "asyncio.Future[ExecResult]":
        return self._start(lambda: self._client.exec(self.node, command, **options))

    def read(self, path: str = "/f") -> "asyncio.Future[bytes]":
        def content() -> bytes:
            kept = bytearray()
            self._client.read(self.node, path, kept.extend)
            return bytes(kept)

        return self._start(content)

    def write(
        self, path: str = "/f", content: bytes = b"text", mode: str = "overwrite"
    ) -> "asyncio.Future[TransferResult]":
        return self._start(lambda: self._client.write(self.node, path, content, mode=mode))

    def on(self, node: str) -> "Operator":
        """The same somebody, acting on another node."""
        return Operator(self.home, node, self._threads)

    async def all_begun(self, count: int) -> None:
        """Wait until so many calls are under way at the gateway, to whatever nodes."""
        async with asyncio.timeout(PATIENCE):
            while (await self._start(self._client.status))["calls_in_flight"] != count:
                pass

    async def pair(self, name: str, **options: Any) -> str:
        """A new pairing's token."""
        return str((await self._start(lambda: self._client.pair(name, **options)))["token"])

    async def revoke(self, name: str = "") -> None:
        await self._start(lambda: self._client.revoke(name or self.node))

    async def view(self) -> dict[str, object]:
        """The node as `list` shows it."""
        (view,) = await self._start(lambda: self._client.nodes(self.node))
        return view

    def _start(self, act: Callable[[], _T]) -> "asyncio.Future[_T]":
        return asyncio.get_running_loop().run_in_executor(self._threads, act)


async def arrived(node: Node, kind: str, call: "asyncio.Future[Any]") -> Json:
    """The call's request as its node gets it; raises what the call is refused with instead."""
    request = asyncio.ensure_future(node.request(kind))
    await asyncio.wait({request, call}, return_when=asyncio.FIRST_COMPLETED)
    if not request.done():
        request.cancel()
        raise AssertionError(f"ended before its node got it: {call.exception() or call.result()}")
    return await request
