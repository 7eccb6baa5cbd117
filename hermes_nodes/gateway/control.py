"""The operators' API under `/v1`: what is asked, and the answer. Errors are JSON."""

import asyncio
import json
from collections.abc import Callable, Mapping
from functools import partial

from aiohttp import web
from aiohttp.typedefs import Handler

from hermes_nodes import __version__, administration, operations
from hermes_nodes.audit import Filter, PairingsFilter, Trail
from hermes_nodes.audit.export import Export, by_key
from hermes_nodes.clock import timestamp
from hermes_nodes.config import Settings
from hermes_nodes.errors import MAX_SHOWN, HermesNodesError, NotAllowed, UsageError
from hermes_nodes.gateway.audit_export import ended_in, send_export
from hermes_nodes.gateway.bodies import OVERSIZE_HINT, decode_body
from hermes_nodes.gateway.call_routes import post_call, upgrade_call
from hermes_nodes.gateway.callers import ACTOR, Identify, expectation, identified
from hermes_nodes.gateway.calls import Calls
from hermes_nodes.gateway.openapi import document
from hermes_nodes.gateway.operators import Actor, Operators
from hermes_nodes.gateway.pairings import Pairings
from hermes_nodes.gateway.routes import ROUTES, Route
from hermes_nodes.operators import Needs
from hermes_nodes.records import Pairing
from hermes_nodes.registry import NodeRegistry
from hermes_nodes.text import printable

#: Bytes of a request's body outside of an upgraded call.
MAX_BODY = 1024 * 1024
#: Rows of the trail that one request may ask for, and seconds between two looks for more.
MAX_ROWS = 100_000
FOLLOW_EVERY = 0.2
#: Seconds for a request's body.
BODY_SECONDS = 30.0
_AUDIT: Needs = (frozenset({"audit"}),)
_ROUTES_HINT = "docs/API.md lists the routes"


class ControlApi:
    """Builds the applications that serve the control socket and `control_listen`."""

    def __init__(  # noqa: PLR0917 - what the routes are about, once each
        self,
        settings: Settings,
        registry: NodeRegistry,
        pairings: Pairings,
        operators: Operators,
        calls: Calls,
        facts: Callable[[], Mapping[str, object]],
        *,
        chain_key: bytes,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._pairings = pairings
        self._operators = operators
        self._facts = facts
        self._chain_key = chain_key
        self._handlers: dict[str, Handler] = {
            "get_status": self._get_status,
            "get_openapi": self._get_openapi,
            "get_nodes": self._get_nodes,
            "post_pairing": self._post_pairing,
            "delete_pairing": self._delete_pairing,
            "patch_pairing": self._patch_pairing,
            "post_rotation": self._post_rotation,
            "get_operators": self._get_operators,
            "post_operator": self._post_operator,
            "delete_operator": self._delete_operator,
            "post_key_rotation": self._post_key_rotation,
            "get_audit": self._get_audit,
            "get_audit_export": self._get_audit_export,
            "upgrade_call": partial(upgrade_call, calls),
            "post_call": partial(post_call, calls),
        }

    def application(self, identify: Identify) -> web.Application:
        """Every route, for whomever ``identify`` lets in."""
        app = web.Application(
            client_max_size=MAX_BODY, middlewares=[identified(identify, error_response), _errors_as_json]
        )
        answer = expectation(identify, error_response)
        for route in ROUTES:
            app.router.add_route(route.method, route.path, self._checked(route), expect_handler=answer)
        # What is no route is one here, so that it asks a stranger for a token as any other does.
        for path in dict.fromkeys(route.path for route in ROUTES):
            app.router.add_route("*", path, _no_such_method, expect_handler=answer)
        app.router.add_route("*", "/{path:.*}", _no_such_path, expect_handler=answer)
        return app

    def _checked(self, route: Route) -> Handler:
        """A route's handler behind its check; a change is checked once more when its turn comes."""
        handler = self._handlers[route.handler]

        async def checked(request: web.Request) -> web.StreamResponse:
            actor = request[ACTOR]
            if route.local and actor.operator_id is not None:
                raise NotAllowed("only the gateway's own user may do this, on its control socket")
            needs = (frozenset({route.verb}),) if route.verb else ()
            self._operators.check(actor, needs)
            await _whole_body(request)
            # Once more: whoever has had all the time for its body may have been removed meanwhile.
            self._operators.check(actor, needs)
            return await handler(request)

        return checked

    # -- state --

    async def _get_status(self, request: web.Request) -> web.Response:
        actor = request[ACTOR]
        known = self._operators.in_scope(actor, self._pairings.live())
        facts = self._facts()
        # Paths and numbers of this machine are nobody's business elsewhere.
        shown = {key: facts[key] for key in ("url", "started_at")} if actor.operator_id else facts
        connected = [self._registry.get(pairing.name) for pairing in known]
        sessions = [session for session in connected if session is not None]
        return web.json_response(
            {
                "version": __version__,
                "nodes_connected": len(sessions),
                "nodes_paired": len(known),
                "calls_in_flight": sum(len(session.calls) for session in sessions),
                "now": timestamp(),
                **shown,
            }
        )

    async def _get_openapi(self, _: web.Request) -> web.Response:
        return web.json_response(document())

    async def _get_nodes(self, request: web.Request) -> web.Response:
        query = request.query
        state = query.get("state")
        everything = query.get("all") == "1"
        tombstones = everything or state == "revoked"
        pairings = await self._pairings.everything() if tombstones else self._pairings.live()
        known = self._operators.in_scope(request[ACTOR], pairings)
        views = [self._view(pairing) for pairing in operations.select(known, query.get("target"))]
        return web.json_response({"nodes": operations.visible(views, state=state, everything=everything)})

    def _view(self, pairing: Pairing) -> dict[str, object]:
        session = self._registry.get(pairing.name)
        if session is not None and session.pairing_id != pairing.id:
            session = None
        return operations.node_view(pairing, session, replaced=self._registry.replaced.get(pairing.id, 0))

    # -- pairings --

    async def _post_pairing(self, request: web.Request) -> web.Response:
        body = decode_body(await request.read(), operations.PairRequest)
        pairing, token = await self._pairings.pair(body, request[ACTOR])
        return web.json_response(operations.pair_view(pairing, token), status=201)

    async def _delete_pairing(self, request: web.Request) -> web.Response:
        revoked = await self._pairings.revoke(request.match_info["name"], request[ACTOR])
        return web.json_response(operations.revoke_view(revoked))

    async def _patch_pairing(self, request: web.Request) -> web.Response:
        body = decode_body(await request.read(), operations.LabelRequest)
        pairing = await self._pairings.label(request.match_info["name"], body, request[ACTOR])
        return web.json_response(operations.label_view(pairing))

    async def _post_rotation(self, request: web.Request) -> web.Response:
        body = decode_body(await request.read() or b"{}", operations.RotateRequest)
        rotated = await self._pairings.rotate(request.match_info["name"], body, request[ACTOR])
        return web.json_response(operations.rotate_view(*rotated))

    # -- operators and key --

    async def _get_operators(self, _: web.Request) -> web.Response:
        views = [administration.operator_view(operator) for operator in self._operators.all()]
        return web.json_response({"operators": views})

    async def _post_operator(self, request: web.Request) -> web.Response:
        body = decode_body(await request.read(), administration.OperatorRequest)
        operator, token = await self._operators.add(body, request[ACTOR])
        return web.json_response({**administration.operator_view(operator), "token": token}, status=201)

    async def _delete_operator(self, request: web.Request) -> web.Response:
        removed = await self._operators.remove(request.match_info["name"], request[ACTOR])
        return web.json_response(administration.operator_view(removed))

    async def _post_key_rotation(self, request: web.Request) -> web.Response:
        notes = await self._operators.rotate_key(self._settings, request[ACTOR])
        return web.json_response({"notes": notes})

    # -- the trail --

    async def _get_audit(self, request: web.Request) -> web.StreamResponse:
        query, actor = request.query, request[ACTOR]
        count = _row_count(query.get("n", "10"))
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        trail = Trail(self._settings.audit_log_path, self._rows_for(actor, query))
        async with ended_in(response, trail):
            with trail:
                rows = await asyncio.to_thread(trail.tail, count)
                await response.prepare(request)
                await _write_rows(response, rows)
                while query.get("follow") == "1":
                    await asyncio.sleep(FOLLOW_EVERY)
                    self._operators.check(actor, _AUDIT)
                    trail.match = self._rows_for(actor, query)
                    await _write_rows(response, await asyncio.to_thread(lambda: list(trail.new_rows())))
        return response

    async def _get_audit_export(self, request: web.Request) -> web.StreamResponse:
        query, actor = request.query, request[ACTOR]

        def check() -> Filter:
            self._operators.check(actor, _AUDIT)
            return self._rows_for(actor, query)

        trail = Export(self._settings.audit_log_path, check(), by_key(self._chain_key))
        return await send_export(request, trail, check)

    def _rows_for(self, actor: Actor, query: Mapping[str, str]) -> Filter:
        """The rows that were asked for and are of nodes in the actor's scope; raises UsageError.

        By the pairing, not by the name: a name paired anew has another past.
        """
        wanted = {key: query.get(key) for key in ("node", "action", "status", "since")}
        record = self._operators.record(actor)
        if record is None or record.scope.is_everything:
            return Filter.asked(**wanted)
        known = {one.id for one in self._operators.in_scope(actor, self._pairings.live())}
        return PairingsFilter.asked(**wanted, pairings=frozenset(known.union(record.scope.pairings)))


async def _write_rows(response: web.StreamResponse, rows: list[dict[str, object]]) -> None:
    if rows:
        await response.write(b"".join(json.dumps(row).encode() + b"\n" for row in rows))


async def _whole_body(request: web.Request) -> None:
    """Wait for it, but not for ever; the handler reads it again, from memory."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UsageError("the request's body is compressed", "send it as it is, without Content-Encoding")
    try:
        async with asyncio.timeout(BODY_SECONDS):
            await request.read()
    except TimeoutError as error:
        raise UsageError(f"the request's body did not come within {BODY_SECONDS:g} seconds") from error


def _row_count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > len(str(MAX_ROWS)) or int(text) > MAX_ROWS:
        raise UsageError(f"`n` is a whole number from 0 to {MAX_ROWS}")
    return int(text)


async def _no_such_method(request: web.Request) -> web.StreamResponse:
    raise web.HTTPMethodNotAllowed(request.method, [])


async def _no_such_path(_: web.Request) -> web.StreamResponse:
    raise web.HTTPNotFound


def error_response(error: HermesNodesError, status: int | None = None) -> web.Response:
    """An error as every route gives it; ``status`` where HTTP has a better one than the error's own."""
    is_unknown = error.http_status == web.HTTPUnauthorized.status_code
    headers = {"WWW-Authenticate": "Bearer"} if is_unknown else {}
    return web.json_response(
        {"error": error.to_wire()}, status=status or error.http_status, headers=headers
    )


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except HermesNodesError as error:
        return error_response(error)
    except web.HTTPRequestEntityTooLarge as error:
        told = UsageError(f"the request has more than {MAX_BODY} bytes", OVERSIZE_HINT)
        return error_response(told, error.status)
    except ConnectionError:
        if request.transport is not None and not request.transport.is_closing():
            raise  # it was another's connection
        return web.Response()  # to nobody: the caller has left before the rest was written
    except web.HTTPException as error:
        asked = printable(f"{request.method} {request.path}", MAX_SHOWN)
        told = UsageError(
            f"`{asked}` is nothing that can be asked for: {error.reason.lower()}", _ROUTES_HINT
        )
        return error_response(told, error.status)
