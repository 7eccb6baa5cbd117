"""A runner and everything around it, for tests of the calls of one session."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from hermes_nodes.audit import AuditLog
from hermes_nodes.node.config import NodeConfig
from hermes_nodes.node.lasting import Lasting
from hermes_nodes.node.runner import Runner
from hermes_nodes.protocol.messages import (
    Exec,
    Message,
    Request,
)
from hermes_nodes.protocol.stream import STDIN, Source
from tests.support import PATIENCE


class RecordingStream:
    """The gateway's side of a session: takes what calls send, as fast as it comes."""

    def __init__(self) -> None:
        self.answers: dict[str, asyncio.Future[Any]] = {}
        self.output: dict[tuple[str, int], bytearray] = {}
        self.taken = 0
        self.arrived = asyncio.Event()
        self._sources: dict[tuple[str, int], Source] = {}

    def open(self, call_id: str, *, sends: dict[int, Source], receives: tuple[int, ...]) -> None:
        assert uuid.UUID(call_id)
        assert not sends
        assert receives in {(), (STDIN,)}

    def send_from(self, call_id: str, channel: int, source: Source) -> None:
        self._sources[call_id, channel] = source
        self.output[call_id, channel] = bytearray()
        asyncio.get_running_loop().call_soon(self.wake, call_id, channel)

    def close(self, call_id: str) -> None:
        for key in [key for key in self._sources if key[0] == call_id]:
            del self._sources[key]

    def send(self, message: Message) -> None:
        call_id = str(message.id)  # type: ignore[attr-defined]
        self.answer(call_id).set_result(message)

    def wake(self, call_id: str, channel: int) -> None:
        source = self._sources.get((call_id, channel))
        while source is not None and (piece := source.pull(1 << 17)) is not None:
            self.output[call_id, channel] += piece
            self.arrived.set()
            if not piece:
                return

    def took(self, call_id: str, channel: int, size: int) -> None:
        assert channel == STDIN
        assert uuid.UUID(call_id)
        self.taken += size

    def answer(self, call_id: str) -> asyncio.Future[Any]:
        return self.answers.setdefault(call_id, asyncio.get_running_loop().create_future())


class Calls:
    """A runner and everything around it."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.stream = RecordingStream()
        self.trail = AuditLog(folder / "audit.log")
        config = NodeConfig(
            path=folder / "config.toml",
            server_url="ws://unused",
            name="laptop",
            token="unused",
            **{"allowed_paths": (str(folder),), **settings},
        )
        self.lasting = Lasting(folder)
        self.runner = Runner(config, self.stream, self.trail, self.lasting)

    async def run(self, request: Request) -> Any:
        self.runner.start(request)
        return await asyncio.wait_for(self.stream.answer(request.id), PATIENCE)

    def stdout(self, request: Request) -> bytes:
        return bytes(self.stream.output[request.id, 1])

    def stderr(self, request: Request) -> bytes:
        return bytes(self.stream.output[request.id, 2])

    async def until_output(self, request: Request, text: bytes) -> None:
        async with asyncio.timeout(PATIENCE):
            while text not in self.stream.output.get((request.id, 1), b""):
                self.stream.arrived.clear()
                await self.stream.arrived.wait()

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.trail.path.read_text().splitlines()]


def exec_(command: str | None = None, **fields: Any) -> Exec:
    return Exec(id=str(uuid.uuid4()), command=command, **fields)


@asynccontextmanager
async def calls_in(folder: Path, **settings: Any) -> AsyncIterator[Calls]:
    calls = Calls(folder, **settings)
    try:
        yield calls
    finally:
        calls.runner.hurry()
        await asyncio.wait_for(calls.runner.close(), PATIENCE)
        calls.lasting.spawner.close()
        calls.trail.close()
