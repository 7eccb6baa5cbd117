"""The operators' API under `/v1`: who asks, what is asked, and the answer. Errors are JSON."""

import asyncio
import base64
import json
import os
import pwd
import socket
import struct
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import cast

import msgspec
from aiohttp import web

from hermes_nodes import __version__, operations
from hermes_nodes.errors import MAX_SHOWN, ForeignUser, HermesNodesError, UsageError
from hermes_nodes.gateway.bodies import (
    OVERSIZE_HINT,
    VERBS,
    WriteBody,
    decode_body,
    decode_call,
    node_request,
)
from hermes_nodes.gateway.calls import Actor, Calls, RunningCall
from hermes_nodes.gateway.connection import CallerConnection
from hermes_nodes.gateway.outcomes import Outcome
from hermes_nodes.gateway.pairings import Pairings
from hermes_nodes.protocol.control import UPGRADE
from hermes_nodes.protocol.messages import timestamp
from hermes_nodes.protocol.stream import STDERR
from hermes_nodes.records import Pairing
from hermes_nodes.registry import NodeRegistry
from hermes_nodes.text import printable

#: Bytes of a request's body outside of an upgraded call.
MAX_BODY = 1024 * 1024
_ROUTES_HINT = "docs/API.md lists the routes"
_ACTOR: web.RequestKey[Actor] = web.RequestKey("actor", Actor)


def peer_uid(sock: socket.socket) -> int:
    """The user at the other end of a Unix socket, as the kernel says."""
    if sys.platform == "linux":
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return cast("int", struct.unpack("3i", credentials)[1])
    # macOS: SOL_LOCAL 0, LOCAL_PEERCRED 1, struct xucred {u_int version; uid_t uid; …}.
    credentials = sock.getsockopt(0, 1, 76)
    return cast("int", struct.unpack_from("=II", credentials)[1])


def actor_of(uid: int, *, our_uid: int) -> Actor:
    """The local operator of that user id; raises ForeignUser for anyone but us and root."""
    if uid not in (our_uid, 0):
        raise ForeignUser
    with suppress(KeyError):
        return Actor(f"local:{pwd.getpwuid(uid).pw_name}")
    return Actor(f"local:{uid}")


class ControlApi:
    """Builds the application that serves the control socket."""

    def __init__(
        self,
        registry: NodeRegistry,
        pairings: Pairings,
        calls: Calls,
        status: Callable[[], Mapping[str, object]],
    ) -> None:
        self._registry = registry
        self._pairings = pairings
        self._calls = calls
        self._status = status

    def application(self) -> web.Application:
        app = web.Application(client_max_size=MAX_BODY, middlewares=[self._identify, _errors_as_json])
        app.router.add_get("/v1/status", self._get_status)
        app.router.add_get("/v1/nodes", self._get_nodes)
        app.router.add_post("/v1/pairings", self._post_pairing)
        app.router.add_delete("/v1/pairings/{name}", self._delete_pairing)
        app.router.add_patch("/v1/pairings/{name}", self._patch_pairing)
        app.router.add_post("/v1/call", self._upgrade_call)
        app.router.add_post(f"/v1/nodes/{{name}}/{{verb:{'|'.join(VERBS)}}}", self._post_call)
        return app

    # -- who asks --

    @web.middleware
    async def _identify(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the caller has hung up")
        try:
            uid = peer_uid(transport.get_extra_info("socket"))
            request[_ACTOR] = actor_of(uid, our_uid=os.geteuid())
        except ForeignUser as error:
            return _error_response(error)
        return await handler(request)

    # -- pairings and state --

    async def _get_status(self, _: web.Request) -> web.Response:
        return web.json_response(
            {
                "version": __version__,
                "nodes_connected": len(self._registry),
                "nodes_paired": len(self._pairings.live()),
                "calls_in_flight": len(self._calls),
                "now": timestamp(),
                **self._status(),
            }
        )

    async def _get_nodes(self, request: web.Request) -> web.Response:
        query = request.query
        state = query.get("state")
        everything = query.get("all") == "1"
        tombstones = everything or state == "revoked"
        pairings = await self._pairings.everything() if tombstones else self._pairings.live()
        views = [self._view(pairing) for pairing in operations.select(pairings, query.get("target"))]
        return web.json_response({"nodes": operations.visible(views, state=state, everything=everything)})

    def _view(self, pairing: Pairing) -> dict[str, object]:
        session = self._registry.get(pairing.name)
        if session is not None and session.pairing_id != pairing.id:
            session = None
        return operations.node_view(pairing, session, replaced=self._registry.replaced.get(pairing.id, 0))

    async def _post_pairing(self, request: web.Request) -> web.Response:
        body = decode_body(await request.read(), operations.PairRequest)
        pairing, token = await self._pairings.pair(body, request[_ACTOR].name)
        return web.json_response(operations.pair_view(pairing, token), status=201)

    async def _delete_pairing(self, request: web.Request) -> web.Response:
        pairing = await self._pairings.revoke(request.match_info["name"], request[_ACTOR].name)
        return web.json_response(operations.revoke_view(pairing))

    async def _patch_pairing(self, request: web.Request) -> web.Response:
        body = decode_body(await request.read(), operations.LabelRequest)
        pairing = await self._pairings.label(request.match_info["name"], body, request[_ACTOR].name)
        return web.json_response(operations.label_view(pairing))

    # -- calls --

    async def _upgrade_call(self, request: web.Request) -> web.StreamResponse:
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
            running = self._calls.begin(request[_ACTOR], body.node, message, connection, source)
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

    async def _post_call(self, request: web.Request) -> web.StreamResponse:
        """The same for whoever has only an HTTP client: output as NDJSON, input in the body."""
        fields = decode_body(await request.read() or b"{}", dict[str, object])
        names = {"node": request.match_info["name"], "call": request.match_info["verb"]}
        body = decode_call(json.dumps({**fields, **names}).encode())
        message = node_request(body)
        if body.takes_input and not isinstance(body, WriteBody):
            raise UsageError("`stdin` needs an upgraded connection")
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        caller = NdjsonCaller(response)
        source = Content(body.content_b64 or b"") if isinstance(body, WriteBody) else None
        running = self._calls.begin(request[_ACTOR], body.node, message, caller, source)
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


def _error_response(error: HermesNodesError) -> web.Response:
    return web.json_response({"error": error.to_wire()}, status=error.http_status)


@web.middleware
async def _errors_as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except HermesNodesError as error:
        return _error_response(error)
    except web.HTTPRequestEntityTooLarge as error:
        told = UsageError(f"the request has more than {MAX_BODY} bytes", OVERSIZE_HINT)
        return web.json_response({"error": told.to_wire()}, status=error.status)
    except web.HTTPException as error:
        asked = printable(f"{request.method} {request.path}", MAX_SHOWN)
        told = UsageError(
            f"`{asked}` is nothing that can be asked for: {error.reason.lower()}", _ROUTES_HINT
        )
        return web.json_response({"error": told.to_wire()}, status=error.status)
