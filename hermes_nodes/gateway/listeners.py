"""Where the gateway listens: for nodes, on the control socket, and for operators over the network."""

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import cast

from aiohttp import web
from aiohttp.http import HttpProcessingError

from hermes_nodes import __version__
from hermes_nodes.config import Settings
from hermes_nodes.disk import make_directory
from hermes_nodes.errors import ListenFailed, SettingsError
from hermes_nodes.gateway.callers import is_loopback
from hermes_nodes.gateway.entrance import Entrance, Handshakes
from hermes_nodes.gateway.guard import Doorkeeper, Guard
from hermes_nodes.protocol.messages import NODES_PATH

#: Seconds that handlers get to end at a stop.
STOP_GRACE = 1.5
#: A Unix socket's path with its NUL takes 108 bytes on Linux and 104 on macOS.
MAX_SOCKET_PATH = 103


class Listeners:
    """The gateway's servers. What is opened is closed by ``stack``, also if the start fails further on."""

    def __init__(self, settings: Settings, stack: AsyncExitStack) -> None:
        self._settings = settings
        self._stack = stack
        self._servers: list[asyncio.Server] = []
        self._tls = make_tls(settings)

    async def nodes(self, handle: Callable[[web.Request], object]) -> tuple[str, int]:
        """Serve `/ws/nodes`; the address that nodes dial."""
        app = web.Application(client_max_size=0)
        app.router.add_get(NODES_PATH, handle)  # type: ignore[arg-type]
        app.router.add_get("/healthz", _healthz)
        return await self._guarded(app, self._settings.host, self._settings.port, websocket=True)

    async def operators(self, app: web.Application) -> tuple[str, int]:
        """Serve the control API at `control_listen`; its address."""
        host, port = split_address(self._settings.control_listen or "")
        return await self._guarded(app, host, port, websocket=False)

    async def control_socket(self, app: web.Application) -> None:
        """Serve the control API to the local user."""
        runner = await _runner(self._stack, app)
        path = self._settings.control_socket
        listener = await asyncio.to_thread(_bind_control, path)
        self._stack.callback(_unlink, path)
        server = await asyncio.get_running_loop().create_unix_server(
            cast("type[asyncio.Protocol]", runner.server), sock=listener
        )
        self._keep(server)

    def renew_certificate(self, settings: Settings) -> None:
        """Use the certificate that ``settings`` names for connections from now on; raises SettingsError."""
        make_tls(settings)  # tried on a new context first: a live one takes a certificate before its key
        if self._tls is not None:
            _load_certificate(self._tls, settings)

    def stop_accepting(self) -> None:
        for server in self._servers:
            server.close()

    async def _guarded(
        self, app: web.Application, host: str, port: int, *, websocket: bool
    ) -> tuple[str, int]:
        """Serve strangers, who are bounded in what they may cost before it is known who they are."""
        app.on_response_prepare.append(_close_after)
        runner = await _runner(self._stack, app)
        door = Doorkeeper(
            most=self._settings.max_connections,
            most_per_address=self._settings.max_connections_per_address,
            trusted=self._settings.trusted_proxies,
        )
        seconds = self._settings.handshake_timeout_seconds
        guard = partial(
            Guard,
            runner.server,  # type: ignore[arg-type]
            door,
            seconds=seconds,
            websocket=websocket,
        )
        protocol: Callable[[], asyncio.Protocol] = guard
        if self._tls is not None:
            handshakes = Handshakes(guard, door, self._tls, seconds=seconds)
            self._stack.push_async_callback(handshakes.end)
            protocol = partial(Entrance, handshakes)
        try:
            server = await asyncio.get_running_loop().create_server(protocol, host, port, backlog=1024)
        except (OSError, UnicodeError) as error:
            raise _listen_failed(
                host, port, error, "--host and --port" if websocket else "control_listen"
            ) from error
        self._keep(server)
        address: tuple[str, int] = server.sockets[0].getsockname()[:2]
        return address

    def _keep(self, server: asyncio.Server) -> None:
        self._servers.append(server)
        self._stack.callback(server.close)


def split_address(listen: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT`` or ``[HOST]:PORT``."""
    host, _, port = listen.rpartition(":")
    return host.strip("[]"), int(port)


def check_control_listen(settings: Settings) -> None:
    """Raises SettingsError where operators' tokens would travel in the open."""
    if settings.control_listen is None or settings.tls_cert_path is not None:
        return
    host, _ = split_address(settings.control_listen)
    if not is_loopback(host):
        raise SettingsError(
            f"control_listen {settings.control_listen} would send operators' tokens in the open",
            "set tls_cert_path and tls_key_path, or listen on 127.0.0.1 behind a proxy that brings the TLS",
        )


def url_of(scheme: str, host: str, port: int, path: str = "") -> str:
    """An address as it stands in a URL."""
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{path}"


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether a fault is this program's; a peer that speaks no HTTP must not fill the log."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


async def _runner(stack: AsyncExitStack, app: web.Application) -> web.AppRunner:
    http_log = logging.getLogger("hermes_nodes.http")
    http_log.addFilter(_is_ours)
    runner = web.AppRunner(
        app,
        access_log=None,
        logger=http_log,
        handler_cancellation=True,
        shutdown_timeout=STOP_GRACE,
        auto_decompress=False,  # it would unpack what a stranger sends, and stumble over what can't be
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


def make_tls(settings: Settings) -> ssl.SSLContext | None:
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


def _listen_failed(host: str, port: int, error: OSError | UnicodeError, where: str) -> ListenFailed:
    # asyncio puts a sentence of its own around the system's; a resolver's numbers are negative.
    number = getattr(error, "errno", None) or 0
    why = os.strerror(number) if number > 0 else getattr(error, "strerror", None) or str(error)
    return ListenFailed(
        f"can't listen on {host}:{port}: {why}", f"choose another with {where}, or stop what uses it"
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
