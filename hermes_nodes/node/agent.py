"""The node's life: dial, prove, answer, and dial again for ever."""

import asyncio
import logging
import random
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

from aiohttp import (
    ClientConnectorError,
    ClientError,
    ClientSession,
    ClientWebSocketResponse,
    ClientWSTimeout,
    Fingerprint,
)

from hermes_nodes.audit import AuditLog
from hermes_nodes.errors import ProtocolViolation, SettingsError
from hermes_nodes.link import CLOSE_GRACE
from hermes_nodes.node.config import NodeConfig
from hermes_nodes.node.lasting import Lasting
from hermes_nodes.node.parts import SWEEP_EVERY
from hermes_nodes.node.runner import Runner
from hermes_nodes.node.session import MAX_REASON, NodeSession, SessionEnded, log_in
from hermes_nodes.protocol.handshake import Refused
from hermes_nodes.protocol.messages import LIMIT_STREAM
from hermes_nodes.text import printable

log = logging.getLogger(__name__)

#: Seconds for a connection to be made.
DIAL_SECONDS = 20.0
#: Seconds to stay away after `replaced`: two machines with one token must not throw each other out.
REPLACED_PAUSE = 60.0
#: A session of this many seconds was a good one: the next failure starts from the shortest pause.
GOOD_SESSION = 10.0


class Backoff:
    """An endless iterator that pauses between its items, longer each time until it is reset.

    The pause is drawn between half of its length and all of it, so that the nodes of a gateway that
    comes back do not arrive at one moment.
    """

    def __init__(self, initial: float, most: float, factor: float) -> None:
        self._initial = initial
        self._most = most
        self._factor = factor
        self._next = initial
        self._pause = 0.0

    def reset(self) -> None:
        self._next = self._initial

    def at_least(self, seconds: float) -> None:
        """Make the coming pause that long."""
        self._pause = seconds

    def pause(self) -> float:
        """Seconds to stay away now; the next time it will be longer."""
        seconds = max(self._pause, self._next * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
        self._next = min(self._next * self._factor, self._most)
        self._pause = 0.0
        return seconds

    async def __aiter__(self) -> AsyncIterator[None]:
        while True:
            yield
            seconds = self.pause()
            log.info("dialling again in %.1f s", seconds)
            await asyncio.sleep(seconds)


def _nobody_listens(_state: str, _detail: str) -> None:
    """For a node that is embedded without being watched."""


class NodeAgent:
    """Keeps one node connected; ``run`` returns after ``stop``.

    ``on_state`` hears of every change: ``connecting``, ``connected``, ``waiting``, ``stopped``.
    """

    def __init__(
        self, config: NodeConfig, trail: AuditLog, on_state: Callable[[str, str], None] | None = None
    ) -> None:
        self._config = config
        self._trail = trail
        self._lasting = Lasting(config.path.parent, config.jobs)
        self._on_state = on_state or _nobody_listens
        self._backoff = Backoff(config.backoff_initial, config.backoff_max, config.backoff_factor)
        self._stopping = asyncio.Event()
        self._session: NodeSession | None = None
        self._connected_at: float | None = None
        # Also of sessions that are over: their commands may take seconds to end.
        self._runners: set[Runner] = set()
        self._ending: set[asyncio.Task[None]] = set()

    def stop(self) -> None:
        """Leave the gateway and end what runs."""
        self._stopping.set()
        for runner in self._runners:
            runner.hurry()
        self._lasting.jobs.hurry()
        if self._session is not None:
            self._session.leave("node_shutdown")

    async def run(self) -> None:
        """Dial, serve, pause, for ever."""
        await self._lasting.jobs.open()
        with suppress(OSError):  # the first command tries again, and says why not
            self._lasting.spawner.open()
        work = asyncio.create_task(self._keep_connected())
        stopping = asyncio.create_task(self._stopping.wait())
        tidying = asyncio.create_task(self._tidy())
        try:
            await asyncio.wait([work, stopping], return_when=asyncio.FIRST_COMPLETED)
            if self._session is not None:
                await asyncio.wait([work], timeout=CLOSE_GRACE * 2)
        finally:
            for task in (work, stopping, tidying):
                task.cancel()
            await asyncio.gather(work, stopping, tidying, return_exceptions=True)
            await asyncio.gather(*self._ending, return_exceptions=True)
            await self._lasting.jobs.close()
            self._lasting.spawner.close()
            self._on_state("stopped", "")
        if not self._stopping.is_set():
            work.result()

    async def _tidy(self) -> None:
        """Sweep what broken transfers have left, now and then."""
        while True:
            await asyncio.to_thread(self._lasting.parts.tidy)
            await asyncio.sleep(SWEEP_EVERY)

    async def _keep_connected(self) -> None:
        async for _ in self._backoff:
            self._connected_at = None
            self._on_state("connecting", "")
            reason = await self._attempt()
            if self._stopping.is_set():
                return
            connected = 0.0 if self._connected_at is None else time.monotonic() - self._connected_at
            reason = self._plan_next(reason, connected)
            log.warning("not connected: %s", reason)
            self._on_state("waiting", reason)

    def _plan_next(self, reason: str, connected_seconds: float) -> str:
        """Adapt the coming pause to how the connection went; gives the reason in a sentence."""
        if connected_seconds >= GOOD_SESSION:
            self._backoff.reset()
        if reason == "replaced":
            self._backoff.at_least(REPLACED_PAUSE)
            return "replaced: another machine uses this pairing's token"
        return reason

    async def _attempt(self) -> str:
        """One connection from dial to end; says why it ended."""
        try:
            async with ClientSession() as http:
                ws = await self._dial(http)
                try:
                    codec, session_id = await log_in(ws, self._config)
                    session = NodeSession(ws, codec, self._config, self._trail, self._lasting)
                    await self._serve(session, session_id)
                finally:
                    await ws.close()  # answers the gateway's close; waits CLOSE_GRACE at most
        except SessionEnded as end:
            return end.reason
        except Refused as refusal:
            return _refusal(refusal)
        except ProtocolViolation as error:
            return error.message
        except TimeoutError:
            return "the gateway does not answer"
        except (ClientError, OSError, UnicodeError) as error:
            return _network_reason(error)
        return "the session ended"

    async def _dial(self, http: ClientSession) -> ClientWebSocketResponse[bool]:
        async with asyncio.timeout(DIAL_SECONDS):
            return await http.ws_connect(
                self._config.server_url,
                ssl=tls_settings(self._config),
                proxy=self._config.proxy_url,
                timeout=ClientWSTimeout(ws_close=CLOSE_GRACE),
                autoping=False,
                max_msg_size=LIMIT_STREAM + 1,
                compress=0,
                decode_text=False,
            )

    async def _serve(self, session: NodeSession, session_id: str) -> None:
        self._session = session
        self._connected_at = time.monotonic()
        self._runners.add(session.runner)
        log.info("connected to %s", self._config.server_url)
        self._on_state("connected", session_id)
        try:
            await session.run()
        finally:
            self._session = None
            session.close_calls()
            # The commands of this session are ended while the next one is already being dialled.
            ending = asyncio.create_task(self._end_calls(session.runner))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    async def _end_calls(self, runner: Runner) -> None:
        await runner.close()
        self._runners.discard(runner)


def _network_reason(error: Exception) -> str:
    if isinstance(error, ClientConnectorError):  # its own sentence speaks of TLS where there is none
        why = error.os_error.strerror or error.os_error
        return f"can't connect to {error.host}:{error.port}: {why}"
    return str(error) or type(error).__name__


_REFUSALS = {
    "invalid_token": "the gateway does not accept this node's token: it is wrong, revoked or expired; "
    "pair the node again and `hermes-nodes node join` with the new token",
    "locked_out": "the gateway has locked this node out after too many wrong tokens",
    "unsupported_protocol_version": "the gateway speaks another version of the protocol: update one "
    "of the two",
}


def _refusal(refusal: Refused) -> str:
    reason = printable(refusal.reply.reason, MAX_REASON)
    return _REFUSALS.get(reason, f"the gateway refused this node: {reason}")


def tls_settings(config: NodeConfig) -> ssl.SSLContext | Fingerprint | bool:
    """How the gateway's certificate is checked: by its fingerprint, by a given CA, or by the system's."""
    if config.pinned_cert_sha256:
        return Fingerprint(bytes.fromhex(config.pinned_cert_sha256))
    if config.ca_cert:
        try:
            return ssl.create_default_context(cafile=str(config.ca_cert))
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(
                f"ca_cert {config.ca_cert} can't be used: {error}", "it must be a file of PEM certificates"
            ) from error
    return True
