"""The nodes' WebSocket endpoint: handshake, then one session per connection until it ends."""

import asyncio
import logging
from typing import cast

from aiohttp import WSMessage, WSMsgType, web

from hermes_nodes.audit import AuditLog
from hermes_nodes.clock import timestamp
from hermes_nodes.config import Settings
from hermes_nodes.errors import AuditUnwritable, ProtocolViolation
from hermes_nodes.gateway.addresses import Proxies, is_loopback_peer
from hermes_nodes.gateway.guard import Guard
from hermes_nodes.gateway.pairings import Candidate, Pairings
from hermes_nodes.gateway.refusals import Refusals
from hermes_nodes.link import CLOSE_GRACE, WebSocketLink, close_websocket, send_frame
from hermes_nodes.older.sessions import OlderSession
from hermes_nodes.protocol.codec import Frame, RecordCodec
from hermes_nodes.protocol.handshake import Accepted, GatewayHandshake, Refused
from hermes_nodes.protocol.messages import (
    LIMIT_LEGACY,
    LIMIT_STREAM,
    Bye,
    Close,
    encode,
)
from hermes_nodes.protocol.stream import Budget
from hermes_nodes.records import Pairing, Seen
from hermes_nodes.registry import NodeRegistry
from hermes_nodes.sessions import RateExceeded, Session, StreamSession

log = logging.getLogger(__name__)

#: Bytes that all streams together may let be under way beyond their first windows.
WINDOW_BUDGET = 16 * 1024 * 1024


class NodesEndpoint:
    """Serves `/ws/nodes`."""

    def __init__(
        self,
        settings: Settings,
        registry: NodeRegistry,
        pairings: Pairings,
        trail: AuditLog,
        refusals: Refusals,
    ) -> None:
        #: Replaced when the settings are read again.
        self.settings = settings
        self._registry = registry
        self._pairings = pairings
        self._trail = trail
        self._budget = Budget(WINDOW_BUDGET)
        self._proxies = Proxies(settings.trusted_proxies)
        self._refusals = refusals

    async def handle(self, request: web.Request) -> web.StreamResponse:
        ws = web.WebSocketResponse(
            timeout=CLOSE_GRACE,
            autoping=False,
            autoclose=False,
            compress=False,
            # The guard holds the limits, which change at `auth_ok`; aiohttp's can't.
            max_msg_size=LIMIT_LEGACY + 1,
            decode_text=False,
        )
        await ws.prepare(request)
        transport = request.transport
        if transport is None:
            return ws
        guard = cast("Guard", transport.get_protocol())
        guard.upgraded()
        address = self._proxies.address(request.headers, transport)
        candidate = Candidate(self._pairings)
        try:
            accepted = await self._handshake(ws, transport, address, candidate)
        except ConnectionError:
            return ws
        if accepted is not None:
            guard.authenticated(LIMIT_STREAM if accepted.streams else LIMIT_LEGACY)
            await self._serve(ws, transport, accepted, address, candidate)
        return ws

    # -- handshake --

    async def _handshake(
        self,
        ws: web.WebSocketResponse,
        transport: asyncio.Transport,
        address: str,
        candidate: Candidate,
    ) -> Accepted | None:
        handshake = GatewayHandshake(
            protected=_is_protected(transport),
            lookup=candidate.credentials,
            legacy_streaming=self.settings.legacy_streaming,
        )
        try:
            ack = handshake.receive_hello(await self._receive(ws, handshake))
            await send_frame(ws, ack)
            accepted = handshake.receive_auth(await self._receive(ws, handshake))
            if not await candidate.proved(accepted.proved_by):
                raise handshake.invalid_token("revoked during the handshake")
            await send_frame(ws, accepted.auth_ok)
        except Refused as refusal:
            await self._refuse(ws, transport, handshake, refusal, address)
            return None
        return accepted

    async def _receive(self, ws: web.WebSocketResponse, handshake: GatewayHandshake) -> Frame:
        try:
            async with asyncio.timeout(self.settings.handshake_timeout_seconds):
                while True:
                    message = await ws.receive()
                    if message.type is WSMsgType.PING:
                        await ws.pong(message.data)
                        continue
                    if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                        return _frame(message)
                    if message.type is not WSMsgType.PONG:
                        raise ConnectionResetError("the peer left during the handshake")
        except TimeoutError:
            raise handshake.timed_out() from None

    async def _refuse(
        self,
        ws: web.WebSocketResponse,
        transport: asyncio.Transport,
        handshake: GatewayHandshake,
        refusal: Refused,
        address: str,
    ) -> None:
        if refusal.close_code == Close.UNAUTHORISED:
            refusal = self._count_failure(handshake, refusal, address)
        else:
            log.warning("refused %s as %r: %s", address, handshake.claimed_name, refusal.true_reason)
        reply = Frame(encode(refusal.reply), binary=False)
        await close_websocket(ws, refusal.close_code, cut=transport.abort, last=lambda: reply)

    def _count_failure(self, handshake: GatewayHandshake, refusal: Refused, address: str) -> Refused:
        locked_out = self._refusals.refused(refusal.true_reason, handshake.claimed_name, address)
        if locked_out and refusal.reply.reason == "invalid_token":
            return handshake.invalid_token(refusal.true_reason, locked_out=True)
        return refusal

    # -- session --

    async def _serve(
        self,
        ws: web.WebSocketResponse,
        transport: asyncio.Transport,
        accepted: Accepted,
        address: str,
        candidate: Candidate,
    ) -> None:
        # From here to the registration nothing waits: whatever was revoked until now is seen here,
        # and whatever is revoked later finds the session registered.
        secret = candidate.secret(accepted.proved_by)
        pairing = candidate.admitted(secret)
        session = self._session(accepted, pairing, address)
        session.secret_id = secret.id
        closable = _Closable(ws)
        link = WebSocketLink(closable, session.next_frame, cut=transport.abort)
        session.attach(link)
        try:
            if pairing is None:
                session.close(Close.REVOKED, "revoked", last=Bye(reason="revoked"))
            else:
                self._register(session)
            await self._receive_all(ws, session)
        finally:
            closable.ended.set()
            self._unregister(session)
            await link.closed()

    def _session(self, accepted: Accepted, pairing: Pairing | None, address: str) -> Session:
        codec = accepted.codec
        pairing_id = pairing.id if pairing else ""
        limit = self.settings.rate_limit_per_node
        if isinstance(codec, RecordCodec):
            return StreamSession(
                accepted,
                codec=codec,
                pairing_id=pairing_id,
                remote_addr=address,
                limit=limit,
                budget=self._budget,
            )
        return OlderSession(
            accepted,
            codec=codec,
            pairing_id=pairing_id,
            remote_addr=address,
            limit=limit,
            guard=self.settings.legacy_exec == "guarded",
        )

    def _register(self, session: Session) -> None:
        old = self._registry.register(session)
        if old is not None and self._is_dead(old):
            old.close(Close.REVOKED, "its token was rotated", last=Bye(reason="revoked"))
        elif old is not None:
            old.close(Close.NORMAL, "replaced", last=Bye(reason="replaced"))
        self._pairings.saw(session.name, seen(session))
        self._row("connect", session, error=None)
        log.info("node %r connected from %s", session.name, session.remote_addr)

    def _is_dead(self, session: Session) -> bool:
        """Whether the token that opened a session is none any more."""
        return not self._pairings.is_good(session.pairing_id, session.secret_id, timestamp())

    def _unregister(self, session: Session) -> None:
        self._registry.unregister(session)
        session.fail_calls()
        reason = session.end_reason or "connection lost"
        if session.pairing_id:
            self._row("disconnect", session, error=reason)
            self._pairings.saw(session.name, seen(session))
        log.info("node %r disconnected: %s", session.name, reason)

    def _row(self, action: str, session: Session, *, error: str | None) -> None:
        self._append(
            action=action,
            status="ok",
            node=session.name,
            pairing_id=session.pairing_id,
            session_id=session.id,
            actor=f"node:{session.name}",
            remote_addr=session.remote_addr,
            error=error,
        )

    def _append(self, **fields: object) -> None:
        try:
            self._trail.append(**fields)
        except AuditUnwritable as unwritable:
            # A node that comes or goes is nobody's act: the log says what the trail can't.
            log.error("%s", unwritable.message)  # noqa: TRY400 - the sentence is enough

    async def _receive_all(self, ws: web.WebSocketResponse, session: Session) -> None:
        while True:
            message = await ws.receive()
            if message.type is WSMsgType.PING:
                session.heard()
                await ws.pong(message.data)
            elif message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                if session.end_reason is None:
                    self._receive_one(session, _frame(message))
            elif message.type is not WSMsgType.PONG:
                return
            del message  # it may hold megabytes, and the next may be hours away

    def _receive_one(self, session: Session, frame: Frame) -> None:
        try:
            session.receive(frame)
        except RateExceeded as error:
            session.close(error.close_code, "rate limit", last=session.rate_limit_notice())
        except ProtocolViolation as error:
            log.warning("node %r broke the protocol: %s", session.name, error.message)
            session.close(error.close_code, error.message)


class _Closable:
    """A WebSocket that is being received from, with a close that waits for the peer's.

    aiohttp's own, while somebody receives, ends the connection right behind the close frame. A peer that
    is just sending gets a reset for that, and may never read why it was closed.
    """

    def __init__(self, ws: web.WebSocketResponse) -> None:
        self._ws = ws
        #: Set when nothing more is received: the peer has closed, or is gone.
        self.ended = asyncio.Event()

    async def send_frame(self, message: bytes, opcode: WSMsgType) -> None:
        await self._ws.send_frame(message, opcode)

    async def close(self, *, code: int) -> bool:
        await self._ws.send_frame(code.to_bytes(2, "big"), WSMsgType.CLOSE)
        return await self.ended.wait()


def seen(session: Session) -> Seen:
    """What the store keeps of a session."""
    hello = session.hello
    return Seen(
        pairing_id=session.pairing_id,
        at=session.last_seen_at,
        platform=hello.platform,
        arch=hello.arch,
        node_version=hello.node_version,
        capabilities=session.capabilities,
        encrypted=session.encrypted,
        remote_addr=session.remote_addr,
    )


def _frame(message: WSMessage) -> Frame:
    return Frame(message.data, binary=message.type is WSMsgType.BINARY)


def _is_protected(transport: asyncio.Transport) -> bool:
    """Whether nobody can listen: TLS here, or a peer on this machine such as a reverse proxy."""
    return transport.get_extra_info("sslcontext") is not None or is_loopback_peer(transport)
