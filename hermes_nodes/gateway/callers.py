"""Who asks: the user at the other end of the control socket, or the operator whose token was shown."""

import asyncio
import ipaddress
import os
import pwd
import socket
import struct
import sys
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import cast

from aiohttp import HttpVersion11, web
from aiohttp.typedefs import Handler, Middleware

from hermes_nodes.errors import MAX_SHOWN, ForeignUser, HermesNodesError, NotAllowed, NoToken, UsageError
from hermes_nodes.gateway.addresses import Proxies
from hermes_nodes.gateway.guard import Guard
from hermes_nodes.gateway.operators import Actor, Operators
from hermes_nodes.gateway.refusals import Refusals
from hermes_nodes.text import printable

ACTOR: web.RequestKey[Actor] = web.RequestKey("actor", Actor)
_BEARER = "bearer "
_CONTINUE = "100-continue"
_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
#: Says who asks; raises HermesNodesError for whoever may not.
Identify = Callable[[web.Request], Actor]


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


def local_user(request: web.Request) -> Actor:
    """Whoever the kernel says is at the other end of the control socket."""
    return actor_of(peer_uid(_transport(request).get_extra_info("socket")), our_uid=os.geteuid())


class TokenHolders:
    """Operators over the network. Being on loopback, or saying who one is, is nothing here."""

    def __init__(
        self,
        operators: Operators,
        refusals: Refusals,
        proxies: Proxies,
        *,
        hosts: Iterable[str] | None,
    ) -> None:
        """``hosts`` are what a ``Host`` may name besides loopback; None where any may stand there."""
        self._operators = operators
        self._refusals = refusals
        self._proxies = proxies
        self._hosts = None if hosts is None else _LOCAL_NAMES.union(hosts)

    def identify(self, request: web.Request) -> Actor:
        """The operator; raises NotAllowed for a browser's page, NoToken for whoever shows no good token."""
        self._refuse_browsers(request)
        address = self._proxies.address(request.headers, _transport(request))
        token = _token(request)
        operator = self._operators.authenticate(token)
        if operator is None:
            self._refusals.refused(self._operators.fault(token), None, address)
            raise NoToken
        cast("Guard", _transport(request).get_protocol()).authenticated()
        return Actor(f"operator:{operator.name}", address, operator.id)

    def _refuse_browsers(self, request: web.Request) -> None:
        # A page may make a browser send what it likes to loopback, but not hide that it comes from a page;
        # and a name that it has rebound to loopback still stands in `Host`.
        if "Origin" in request.headers:
            raise NotAllowed("this API is not for browsers' pages", "use `hermes-nodes --gateway`, or curl")
        if self._hosts is not None and host_name(request.headers.get("Host", "")) not in self._hosts:
            raise NotAllowed("this Host is not one of this gateway's", "use the address it listens on")


def host_name(host: str) -> str:
    """A ``Host`` header without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def is_loopback(host: str) -> bool:
    """Whether an address or name to listen on is on this machine alone."""
    with suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return host.lower() == "localhost"


def identified(identify: Identify, refused: Callable[[HermesNodesError], web.Response]) -> Middleware:
    """A middleware that lets nobody through who is not known; it comes before all that reads a request."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            request[ACTOR] = identify(request)
        except HermesNodesError as error:
            return refused(error)
        return await handler(request)

    return middleware


def expectation(
    identify: Identify, refused: Callable[..., web.Response]
) -> Callable[[web.Request], Awaitable[web.StreamResponse | None]]:
    """Answers a request's `Expect`, which aiohttp does before any middleware; a stranger's is not heard."""

    async def answer(request: web.Request) -> web.StreamResponse | None:
        try:
            identify(request)
        except HermesNodesError as error:
            return refused(error)
        expected = request.headers["Expect"]
        if expected.lower() != _CONTINUE:
            told = UsageError(f"{printable(expected, MAX_SHOWN)!r} is nothing that can be expected")
            return refused(told, web.HTTPExpectationFailed.status_code)
        if request.version >= HttpVersion11:
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0  # of the answer, which is still to come
        return None

    return answer


def _token(request: web.Request) -> str:
    given = request.headers.get("Authorization", "")
    return given[len(_BEARER) :].strip() if given[: len(_BEARER)].lower() == _BEARER else ""


def _transport(request: web.Request) -> asyncio.Transport:
    if request.transport is None:
        raise ConnectionResetError("the caller has hung up")
    return request.transport
