"""The gateway as one object: build, run, shut down in stages."""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from types import TracebackType
from typing import Self

from hermes_nodes import operations
from hermes_nodes.audit import AuditLog
from hermes_nodes.books import Books
from hermes_nodes.clock import timestamp
from hermes_nodes.config import Settings
from hermes_nodes.errors import HermesNodesError
from hermes_nodes.gateway.addresses import Proxies
from hermes_nodes.gateway.callers import TokenHolders, local_user
from hermes_nodes.gateway.calls import Calls
from hermes_nodes.gateway.control import ControlApi
from hermes_nodes.gateway.listeners import (
    Listeners,
    check_control_listen,
    make_tls,
    split_address,
    url_of,
)
from hermes_nodes.gateway.nodes import NodesEndpoint, seen
from hermes_nodes.gateway.operators import Operators
from hermes_nodes.gateway.pairings import Pairings
from hermes_nodes.gateway.recording import Recording, close
from hermes_nodes.gateway.refusals import Refusals
from hermes_nodes.gateway.store_thread import StoreThread
from hermes_nodes.protocol.messages import NODES_PATH, Bye, Close
from hermes_nodes.records import Pairing
from hermes_nodes.registry import NodeRegistry
from hermes_nodes.sessions import Session

log = logging.getLogger(__name__)

#: Seconds between two looks at what time changes: silence, expiry, rows to sync.
TICK = 0.5
#: Seconds between two batches of last-seen times.
SEEN_EVERY = 30.0
#: Settings of which the start has made something that lasts.
_AT_START = (
    "host",
    "port",
    "token_store_path",
    "token_encryption_key_env",
    "audit_log_path",
    "audit_retention_days",
    "audit_max_bytes",
    "control_socket",
    "control_listen",
    "max_connections",
    "max_connections_per_address",
    "trusted_proxies",
)


class Gateway:
    """``async with Gateway(settings) as gateway:`` serves until the block is left.

    Raises SettingsError, BadKey, HomeLocked, ListenFailed, StoreDamaged or AuditUnwritable on entry.
    ``tell`` gets a sentence for whatever the start has done to the home, as soon as it is done.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        environ: Mapping[str, str] = os.environ,
        tell: Callable[[str], object] = log.info,
    ) -> None:
        self.settings = settings
        self.registry = NodeRegistry(settings.rate_limit_per_node)
        self.host = settings.host
        self.port = settings.port
        self.started_at = timestamp()
        # Until the next start: a port does not change from plain to TLS under its peers.
        self._encrypted = settings.tls_cert_path is not None
        self._environ = environ
        self._tell = tell
        self._stack = AsyncExitStack()
        #: Where operators reach it over the network, if they do.
        self.control_url: str | None = None
        self._listeners: Listeners | None = None
        self._parts: tuple[Calls, NodesEndpoint] | None = None
        self._calls: Calls | None = None
        self._recording: Recording | None = None

    @property
    def url(self) -> str:
        """Where nodes dial in."""
        return url_of("wss" if self._encrypted else "ws", self.host, self.port, NODES_PATH)

    @property
    def control_socket(self) -> str:
        return str(self.settings.control_socket)

    def ready(self) -> dict[str, object]:
        """What `--ready-file` gets."""
        return {
            "host": self.host,
            "port": self.port,
            "socket": self.control_socket,
            "pid": os.getpid(),
            "control_url": self.control_url,
        }

    async def __aenter__(self) -> Self:
        async with self._stack as stack:
            await self._start(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    # -- start: each step registers its own end, which runs in the reverse order --

    async def _start(self, stack: AsyncExitStack) -> None:
        check_control_listen(self.settings)
        lock = operations.HomeLock(self.settings, "gateway")
        await asyncio.to_thread(lock.__enter__)
        stack.callback(lock.__exit__, None, None, None)
        books = await self._open_books(stack)
        thread, trail = StoreThread(books.store), books.trail
        stack.push_async_callback(thread.close)
        pairings, operators = await self._views(thread, trail)
        recording = self._recording = await asyncio.to_thread(Recording, books, self.settings)
        stack.callback(recording.stopped)
        calls = self._calls = Calls(self.settings, self.registry, pairings, operators, recording)
        refusals = Refusals(trail)
        nodes = NodesEndpoint(self.settings, self.registry, pairings, trail, refusals)
        self._parts = (calls, nodes)
        stack.callback(refusals.write_counts, all_of_them=True)
        listeners = self._listeners = Listeners(self.settings, stack)
        self.host, self.port = await listeners.nodes(nodes.handle)
        api = ControlApi(
            self.settings,
            self.registry,
            pairings,
            operators,
            calls,
            self._facts,
            chain_key=books.chain.key,
        )
        await listeners.control_socket(api.application(local_user))
        if self.settings.control_listen is not None:
            await self._listen_for_operators(api, operators, refusals)
        stack.push_async_callback(self._end_sessions, calls, pairings)
        ticker = asyncio.create_task(self._tick(pairings, calls, recording, refusals))
        stack.push_async_callback(_cancel, ticker)
        stack.callback(listeners.stop_accepting)
        recording.started()

    async def _open_books(self, stack: AsyncExitStack) -> Books:
        lenient = self.settings.audit_fail_open
        if lenient:
            self._tell("warning: audit_fail_open is set: calls run even if no row of them can be written")
        books = await asyncio.to_thread(
            Books.open, self.settings, self._environ, tell=self._tell, lenient=lenient
        )
        stack.push_async_callback(asyncio.to_thread, close, books)
        return books

    async def _views(self, thread: StoreThread, trail: AuditLog) -> tuple[Pairings, Operators]:
        operators = Operators(thread, trail, self._recheck, self._environ)
        pairings = Pairings(thread, trail, operators, self._revoked)
        await pairings.load()
        await operators.load()
        return pairings, operators

    async def _listen_for_operators(
        self, api: ControlApi, operators: Operators, refusals: Refusals
    ) -> None:
        assert self._listeners is not None  # noqa: S101 - made by the same start
        host, port = split_address(self.settings.control_listen or "")
        holders = TokenHolders(
            operators,
            refusals,
            Proxies(self.settings.trusted_proxies),
            hosts=None if self._encrypted else [host],
        )
        _, port = await self._listeners.operators(api.application(holders.identify))
        self.control_url = url_of("https" if self._encrypted else "http", host, port)

    def _facts(self) -> dict[str, object]:
        return {
            **self.ready(),
            "url": self.url,
            "started_at": self.started_at,
            "home": str(self.settings.home),
        }

    # -- while it runs --

    def reload(self, settings: Settings) -> list[str]:
        """Take over settings and certificates read again; gives the keys that need a new start.

        Raises SettingsError, and then everything stays as it was.
        """
        check_control_listen(settings)
        make_tls(settings)
        waiting = [key for key in _AT_START if getattr(settings, key) != getattr(self.settings, key)]
        if (settings.tls_cert_path is not None) != self._encrypted:
            waiting.append("tls_cert_path")
        if self._recording is not None:
            self._recording.change(settings)
        if self._listeners is not None:
            self._listeners.renew_certificate(settings)
        self.settings = settings
        self.registry.change_rate_limit(settings.rate_limit_per_node)
        for part in self._parts or ():
            part.settings = settings
        return waiting

    def _recheck(self) -> None:
        """Somebody may do less than before."""
        if self._calls is not None:
            self._calls.recheck()

    def _revoked(self, pairing: Pairing) -> None:
        session = self.registry.get(pairing.name)
        if session is not None and session.pairing_id == pairing.id:
            self._shut_out(session, "revoked")

    def _shut_out(self, session: Session, why: str) -> None:
        self.registry.unregister(session)
        session.close(Close.REVOKED, why, last=Bye(reason="revoked"))

    async def _tick(
        self, pairings: Pairings, calls: Calls, recording: Recording, refusals: Refusals
    ) -> None:
        next_seen = time.monotonic() + SEEN_EVERY
        while True:
            await asyncio.sleep(TICK)
            now = time.monotonic()
            self.registry.sweep(
                now,
                ping_after=self.settings.heartbeat_sweep_interval_seconds,
                dead_after=self.settings.heartbeat_stale_seconds,
            )
            self._end_expired(pairings)
            calls.recheck()
            refusals.write_counts()
            try:
                if now >= next_seen or pairings.urgent:
                    next_seen = now + SEEN_EVERY
                    await self._save_seen(pairings)
                await recording.look_after(pairings.in_store)
            except HermesNodesError as error:
                # A disk that is full now may have room again; liveness must be looked after meanwhile.
                log.error("%s", error.message)  # noqa: TRY400 - the sentence is enough

    def _end_expired(self, pairings: Pairings) -> None:
        now = timestamp()
        for session in self.registry:
            pairing = pairings.get(session.name)
            if pairing is None or pairing.id != session.pairing_id:
                continue
            if pairing.expires_at and not pairing.admits(now):
                self._shut_out(session, "expired")
            elif not pairings.is_good(pairing.id, session.secret_id, now):
                self._shut_out(session, "its token was rotated")

    async def _save_seen(self, pairings: Pairings) -> None:
        for session in self.registry:
            pairings.saw(session.name, seen(session))
        await pairings.save_seen()

    # -- stop, in stages --

    async def _end_sessions(self, calls: Calls, pairings: Pairings) -> None:
        """Tell the nodes, which fails their calls; wait until each call has its row."""
        for session in self.registry:
            session.close(Close.SHUTDOWN, "server_shutdown", last=Bye(reason="server_shutdown"))
        await calls.end_all()
        await self._save_seen(pairings)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
