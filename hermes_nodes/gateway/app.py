"""The gateway as one object: build, run, shut down in stages."""

import asyncio
import logging
import os
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self, cast

from aiohttp import web
from aiohttp.http import HttpProcessingError

from hermes_nodes import __version__, operations
from hermes_nodes.books import Books
from hermes_nodes.clock import timestamp
from hermes_nodes.config import Settings
from hermes_nodes.disk import make_directory
from hermes_nodes.errors import HermesNodesError, ListenFailed, SettingsError
from hermes_nodes.gateway.calls import Calls
from hermes_nodes.gateway.control import ControlApi
from hermes_nodes.gateway.guard import Doorkeeper, Guard
from hermes_nodes.gateway.nodes import NodesEndpoint, seen
from hermes_nodes.gateway.pairings import Pairings
from hermes_nodes.gateway.recording import Recording, close
from hermes_nodes.protocol.messages import NODES_PATH, Bye, Close
from hermes_nodes.records import Pairing
from hermes_nodes.registry import NodeRegistry

log = logging.getLogger(__name__)

#: Seconds between two looks at what time changes: silence, expiry, rows to sync.
TICK = 1.0
#: Seconds between two batches of last-seen times.
SEEN_EVERY = 30.0
#: Seconds that handlers get to end at a stop.
STOP_GRACE = 1.5
#: A Unix socket's path with its NUL takes 108 bytes on Linux and 104 on macOS.
MAX_SOCKET_PATH = 103
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
        self._environ = environ
        self._tell = tell
        self._stack = AsyncExitStack()
        self._tls: ssl.SSLContext | None = None
        self._parts: tuple[Calls, NodesEndpoint] | None = None
        self._recording: Recording | None = None
        self._servers: list[asyncio.Server] = []

    @property
    def url(self) -> str:
        """Where nodes dial in."""
        scheme = "wss" if self.settings.tls_cert_path else "ws"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}{NODES_PATH}"

    @property
    def control_socket(self) -> str:
        return str(self.settings.control_socket)

    def ready(self) -> dict[str, object]:
        """What `--ready-file` gets."""
        return {"host": self.host, "port": self.port, "socket": self.control_socket, "pid": os.getpid()}

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
        _check_supported(self.settings)
        lock = operations.HomeLock(self.settings, "gateway")
        await asyncio.to_thread(lock.__enter__)
        stack.callback(lock.__exit__, None, None, None)
        books = await self._open_books(stack)
        pairings = Pairings(books.store, books.trail, self._revoked)
        stack.push_async_callback(pairings.close)
        await pairings.load()
        recording = self._recording = await asyncio.to_thread(Recording, books, self.settings)
        stack.callback(recording.stopped)
        calls = Calls(self.settings, self.registry, pairings, recording)
        nodes = NodesEndpoint(self.settings, self.registry, pairings, books.trail)
        self._parts = (calls, nodes)
        await self._listen_for_nodes(stack, nodes)
        await self._listen_for_operators(stack, ControlApi(self.registry, pairings, calls, self._facts))
        stack.push_async_callback(self._end_sessions, calls, pairings)
        ticker = asyncio.create_task(self._tick(pairings, recording))
        stack.push_async_callback(_cancel, ticker)
        stack.callback(self._stop_accepting)
        recording.started()

    async def _open_books(self, stack: AsyncExitStack) -> Books:
        lenient = self.settings.audit_fail_open
        books = await asyncio.to_thread(Books.open, self.settings, self._environ, lenient=lenient)
        stack.push_async_callback(asyncio.to_thread, close, books)
        if lenient:
            self._tell("warning: audit_fail_open is set: calls run even if no row of them can be written")
        for note in books.notes:
            self._tell(note)
        return books

    async def _listen_for_nodes(self, stack: AsyncExitStack, nodes: NodesEndpoint) -> None:
        app = web.Application(client_max_size=0)
        app.router.add_get(NODES_PATH, nodes.handle)
        app.router.add_get("/healthz", _healthz)
        app.on_response_prepare.append(_close_after)
        runner = await _runner(stack, app)
        door = Doorkeeper(
            most=self.settings.max_connections,
            most_per_address=self.settings.max_connections_per_address,
            trusted=self.settings.trusted_proxies,
        )
        seconds = self.settings.handshake_timeout_seconds
        context = self._tls = _tls(self.settings)
        try:
            server = await asyncio.get_running_loop().create_server(
                lambda: Guard(runner.server, door, seconds=seconds),  # type: ignore[arg-type]
                self.settings.host,
                self.settings.port,
                ssl=context,
                ssl_handshake_timeout=seconds if context else None,
                backlog=1024,
            )
        except (OSError, UnicodeError) as error:
            raise _listen_failed(self.settings, error) from error
        self._keep(stack, server)
        self.host, self.port = server.sockets[0].getsockname()[:2]

    async def _listen_for_operators(self, stack: AsyncExitStack, api: ControlApi) -> None:
        runner = await _runner(stack, api.application())
        path = self.settings.control_socket
        listener = await asyncio.to_thread(_bind_control, path)
        stack.callback(_unlink, path)
        server = await asyncio.get_running_loop().create_unix_server(
            cast("type[asyncio.Protocol]", runner.server), sock=listener
        )
        self._keep(stack, server)

    def _keep(self, stack: AsyncExitStack, server: asyncio.Server) -> None:
        """A start that fails further on must close it, too, not only a stop."""
        self._servers.append(server)
        stack.callback(server.close)

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
        _tls(settings)  # tried on a new context first: a live one takes a certificate before its key
        waiting = [key for key in _AT_START if getattr(settings, key) != getattr(self.settings, key)]
        if self._recording is not None:
            self._recording.change(settings)
        if self._tls is not None:
            _load_certificate(self._tls, settings)
        self.settings = settings
        self.registry.change_rate_limit(settings.rate_limit_per_node)
        for part in self._parts or ():
            part.settings = settings
        return waiting

    def _revoked(self, pairing: Pairing) -> None:
        session = self.registry.get(pairing.name)
        if session is not None and session.pairing_id == pairing.id:
            self.registry.unregister(session)
            session.close(Close.REVOKED, "revoked", last=Bye(reason="revoked"))

    async def _tick(self, pairings: Pairings, recording: Recording) -> None:
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
            try:
                if now >= next_seen or pairings.urgent:
                    next_seen = now + SEEN_EVERY
                    await self._save_seen(pairings)
                await recording.look_after(pairings.in_store)
            except HermesNodesError as error:
                # A disk that is full now may have room again; liveness must be looked after meanwhile.
                log.error("%s", error.message)  # noqa: TRY400 - the sentence is enough

    def _end_expired(self, pairings: Pairings) -> None:
        for session in self.registry:
            pairing = pairings.get(session.name)
            if pairing is not None and pairing.expires_at and not pairing.admits(timestamp()):
                self.registry.unregister(session)
                session.close(Close.REVOKED, "expired", last=Bye(reason="revoked"))

    async def _save_seen(self, pairings: Pairings) -> None:
        for session in self.registry:
            pairings.saw(session.name, seen(session))
        await pairings.save_seen()

    # -- stop, in stages --

    def _stop_accepting(self) -> None:
        for server in self._servers:
            server.close()

    async def _end_sessions(self, calls: Calls, pairings: Pairings) -> None:
        """Tell the nodes, which fails their calls; wait until each call has its row."""
        for session in self.registry:
            session.close(Close.SHUTDOWN, "server_shutdown", last=Bye(reason="server_shutdown"))
        await calls.end_all()
        await self._save_seen(pairings)


def _check_supported(settings: Settings) -> None:
    """No setting is accepted and then ignored where somebody relies on it."""
    if settings.control_listen is not None:
        raise SettingsError(
            "`control_listen` is set, but this version serves operators on the control socket alone",
            "remove it from the settings",
        )


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether a fault is this program's; a peer that speaks no HTTP must not fill the log."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


async def _runner(stack: AsyncExitStack, app: web.Application) -> web.AppRunner:
    http_log = logging.getLogger("hermes_nodes.http")
    http_log.addFilter(_is_ours)
    runner = web.AppRunner(
        app, access_log=None, logger=http_log, handler_cancellation=True, shutdown_timeout=STOP_GRACE
    )
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    return runner


async def _healthz(_: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


async def _close_after(_: web.BaseRequest, response: web.StreamResponse) -> None:
    """One request per connection: whoever wants no WebSocket has no reason to stay."""
    if not isinstance(response, web.WebSocketResponse):
        response.force_close()
    response.headers["Server"] = f"hermes-nodes/{__version__.split('.', maxsplit=1)[0]}"


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if settings.tls_cert_path is None or settings.tls_key_path is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    _load_certificate(context, settings)
    return context


def _load_certificate(context: ssl.SSLContext, settings: Settings) -> None:
    """For connections from now on; raises SettingsError."""
    if settings.tls_cert_path is None or settings.tls_key_path is None:
        return
    try:
        context.load_cert_chain(settings.tls_cert_path, settings.tls_key_path)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(
            f"the TLS certificate {settings.tls_cert_path} or its key {settings.tls_key_path} "
            f"can't be loaded: {error}",
            "both must be PEM files that this user may read, and belong together",
        ) from error


def _listen_failed(settings: Settings, error: OSError | UnicodeError) -> ListenFailed:
    # asyncio puts a sentence of its own around the system's; a resolver's numbers are negative.
    number = getattr(error, "errno", None) or 0
    why = os.strerror(number) if number > 0 else getattr(error, "strerror", None) or str(error)
    return ListenFailed(
        f"can't listen on {settings.host}:{settings.port}: {why}",
        "choose another with --host and --port, or stop what uses it",
    )


def _bind_control(path: Path) -> socket.socket:
    """The control socket, 0600 from its first moment; a stale one is replaced, a live one is not."""
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise SettingsError(
            f"the control socket's path {path} is longer than {MAX_SOCKET_PATH} bytes",
            "set `control_socket` to a shorter one",
        )
    make_directory(path.parent)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        if _answers(path):
            raise ListenFailed(f"another process answers at {path}", "set `control_socket` to another path")
        if path.exists() and not path.is_socket():
            raise ListenFailed(f"{path} is not a socket", "set `control_socket` to another path")
        _unlink(path)
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise ListenFailed(f"can't listen at {path}: {error.strerror}", "set `control_socket`") from error
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(mask)
    return listener


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def _unlink(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()
