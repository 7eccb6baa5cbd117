"""The routes of calls: one over an upgraded connection, one for whoever has only an HTTP client."""

import asyncio
import base64
import json
from typing import cast

import msgspec
from aiohttp import web

from hermes_nodes.errors import HermesNodesError, UsageError
from hermes_nodes.gateway.bodies import WriteBody, decode_body, decode_call, node_request
from hermes_nodes.gateway.callers import ACTOR
from hermes_nodes.gateway.calls import Calls, RunningCall
from hermes_nodes.gateway.connection import CallerConnection
from hermes_nodes.gateway.outcomes import Outcome
from hermes_nodes.protocol.control import UPGRADE
from hermes_nodes.protocol.stream import STDERR


async def upgrade_call(calls: Calls, request: web.Request) -> web.StreamResponse:
    """One call over an upgraded connection, in the frames of `protocol.control`."""
    if request.headers.get("Upgrade", "").lower() != UPGRADE:
        raise UsageError(f"a call needs `Connection: Upgrade` and `Upgrade: {UPGRADE}`")
    body = decode_call(await request.read())
    message = node_request(body)
    response = web.StreamResponse(status=101, headers={"Connection": "Upgrade", "Upgrade": UPGRADE})
    response.force_close()
    await response.prepare(request)
    connection = CallerConnection(request, response)
    source = connection.inbox if body.takes_input else None
    try:
        running = calls.begin(request[ACTOR], body.node, message, connection, source)
        connection.on_resize = running.resize
        outcome = await _attended(running, connection)
        connection.answer(cast("dict[str, object]", msgspec.to_builtins(outcome)))
    except HermesNodesError as error:  # the call's row could not be written
        connection.answer(
            {"node": body.node, "request_id": message.id, "status": "failed", "error": error.to_wire()}
        )
    finally:
        connection.close()
    return response


async def post_call(calls: Calls, request: web.Request) -> web.StreamResponse:
    """The same for whoever has only an HTTP client: output as NDJSON, input in the body."""
    fields = decode_body(await request.read() or b"{}", dict[str, object])
    names = {"node": request.match_info["name"], "call": request.match_info["call"]}
    body = decode_call(json.dumps({**fields, **names}).encode())
    message = node_request(body)
    if body.takes_input and not isinstance(body, WriteBody):
        raise UsageError("`stdin` needs an upgraded connection")
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    caller = NdjsonCaller(response)
    source = Content(body.content_b64 or b"") if isinstance(body, WriteBody) else None
    running = calls.begin(request[ACTOR], body.node, message, caller, source)
    outcome = await running.outcome()
    await caller.line({"result": msgspec.to_builtins(outcome)})
    return response


async def _attended(running: RunningCall, connection: CallerConnection) -> Outcome:
    """The call's outcome, while the caller's wish to end it and its input are passed on."""

    async def cancel() -> None:
        await connection.cancelled()
        running.cancel(has_vanished=connection.has_vanished)

    async def feed() -> None:
        while True:
            await connection.input_ready.wait()
            connection.input_ready.clear()
            running.input_ready()

    attendants = [asyncio.create_task(cancel()), asyncio.create_task(feed())]
    try:
        return await running.outcome()
    finally:
        for task in attendants:
            task.cancel()


class Content:
    """A short content that is all here: a stream Source."""

    def __init__(self, content: bytes) -> None:
        self._rest = memoryview(content)

    def pull(self, limit: int) -> memoryview:
        piece, self._rest = self._rest[:limit], self._rest[limit:]
        return piece


class NdjsonCaller:
    """Output as one JSON object a line, text where it is UTF-8."""

    def __init__(self, response: web.StreamResponse) -> None:
        self._response = response

    async def output(self, channel: int, payload: memoryview) -> None:
        if not payload:
            return
        stream = "stderr" if channel == STDERR else "stdout"
        try:
            await self.line({"stream": stream, "data": str(payload, "utf-8")})
        except UnicodeDecodeError:
            await self.line({"stream": stream, "data_b64": base64.b64encode(payload).decode()})

    async def note(self, text: str) -> None:
        await self.line({"note": text})

    async def line(self, value: object) -> None:
        await self._response.write(json.dumps(value).encode() + b"\n")
