"""Where a gateway is, and a connection to it: its control socket, or its control API over the network.

Standard library only: every command pays for what is imported here.
"""

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, Self
from urllib.parse import SplitResult, urlsplit

from hermes_nodes.errors import (
    ForeignUser,
    GatewayLost,
    GatewayNotRunning,
    NoToken,
    Unavailable,
    UsageError,
)

if TYPE_CHECKING:
    import ssl

#: Where an operator's token may be given.
TOKEN_VARIABLE = "HERMES_NODES_OPERATOR_TOKEN"  # noqa: S105 - a name
#: Seconds for a connection over the network to be made.
CONNECT_SECONDS = 15.0
#: Seconds for an answer from this machine to the question whether it speaks TLS.
_PROBE_SECONDS = 2.0
#: What OpenSSL, by its versions, says of an answer that is no TLS.
_NO_TLS = {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL", "HTTP_REQUEST"}
_PORTS = {"http": 80, "https": 443}
_LOCAL_HOSTS = {"localhost", "127.0.0.1", "::1"}


class GatewayAddress(NamedTuple):
    """One gateway, as it was given: a socket's path, or an `http(s)://` URL with an operator's token."""

    text: str
    #: None for a control socket.
    url: SplitResult | None = None
    token: str = ""

    @classmethod
    def parse(cls, text: str, token: str) -> Self:
        """Raises UsageError for what is no address, or would send the token in the open; NoToken."""
        if "://" not in text:
            return cls(text)
        url = _checked_url(text)
        if not token:
            raise NoToken
        if not token.isascii() or not token.isprintable() or " " in token:
            raise UsageError("the operator token holds signs that no token has", f"check {TOKEN_VARIABLE}")
        return cls(text, url, token)

    @property
    def prefix(self) -> str:
        """What stands before every path, where a proxy serves more than the gateway."""
        return self.url.path.rstrip("/") if self.url else ""

    @property
    def headers(self) -> str:
        """The lines that every request has."""
        if self.url is None:
            return "Host: localhost\r\n"
        return f"Host: {self.url.netloc}\r\nAuthorization: Bearer {self.token}\r\n"

    @contextmanager
    def connection(self) -> Iterator[socket.socket]:
        """A connection for the time of the block; raises GatewayNotRunning, ForeignUser, Unavailable.

        A GatewayLost of the block becomes Unavailable where the port speaks TLS, and `https://` is wanted.
        """
        url = self.url
        with self._connect_socket() if url is None else self._connect_network(url) as sock:
            try:
                yield sock
            except GatewayLost as lost:
                # TLS ends a connection in the open without a word of its own.
                if url is not None and url.scheme == "http" and _speaks_tls(*_endpoint(url)):
                    raise Unavailable(
                        f"the port of {self.text} speaks TLS",
                        f"write {url._replace(scheme='https').geturl()}",
                    ) from lost
                raise

    def _connect_socket(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(self.text)
        except PermissionError as error:
            sock.close()
            raise ForeignUser from error
        except OSError as error:
            sock.close()
            raise GatewayNotRunning(self.text) from error
        return sock

    def _connect_network(self, url: SplitResult) -> socket.socket:
        host, port = _endpoint(url)
        try:
            sock = socket.create_connection((host, port), timeout=CONNECT_SECONDS)
        except (OSError, UnicodeError) as error:
            raise GatewayNotRunning(self.text) from error
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a vanished gateway is noticed
        if url.scheme == "https":
            sock = _encrypted(sock, url, self.text)
        sock.settimeout(None)
        return sock


def send_now(sock: socket.socket, data: bytes | memoryview) -> int:
    """Send what goes without waiting, and say how many bytes; BlockingIOError if none do."""
    if not hasattr(sock, "pending"):
        return sock.send(data, socket.MSG_DONTWAIT)
    with _never_waiting(sock):
        return sock.send(data)


def receive_now(sock: socket.socket, limit: int) -> bytes:
    """What has come, empty at the end; BlockingIOError if that is no whole record of TLS yet."""
    if not hasattr(sock, "pending"):
        return sock.recv(limit)
    with _never_waiting(sock):
        received = sock.recv(limit)
        while received and sock.pending():  # what TLS has opened already does not show in a poll
            received += sock.recv(limit)
    return received


@contextmanager
def _never_waiting(sock: socket.socket) -> Iterator[None]:
    """TLS knows no flag for that, and has errors of its own for what would wait."""
    import ssl  # noqa: PLC0415 - this connection is encrypted, so it has been imported

    sock.setblocking(False)
    try:
        yield
    except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
        raise BlockingIOError from error
    finally:
        sock.setblocking(True)


def token_of(environ: Mapping[str, str]) -> str:
    """The operator token of the environment; empty if there is none."""
    return environ.get(TOKEN_VARIABLE, "").strip()


def _checked_url(text: str) -> SplitResult:
    try:
        url = urlsplit(text)
        good = url.scheme in _PORTS and bool(url.hostname) and url.port != 0
        # It goes into the head of a request as it is.
        good = good and text.isascii() and text.isprintable() and " " not in text
    except ValueError:
        good = False
    if not good or url.query or url.fragment or url.username is not None:
        raise UsageError(
            f"{text[:200]!r} is no gateway's address", "write https://HOST:PORT, or the path of its socket"
        )
    if url.scheme == "http" and url.hostname not in _LOCAL_HOSTS:
        raise UsageError(
            f"{text[:200]!r} would send the operator token in the open",
            "write https://; plain http:// is for this machine alone",
        )
    return url


def _endpoint(url: SplitResult) -> tuple[str, int]:
    """Host and port."""
    return url.hostname or "", url.port or _PORTS[url.scheme]


def _encrypted(sock: socket.socket, url: SplitResult, text: str) -> "ssl.SSLSocket":
    import ssl  # noqa: PLC0415 - only for https, and it takes its time

    try:
        return ssl.create_default_context().wrap_socket(sock, server_hostname=url.hostname or "")
    except OSError as error:
        sock.close()
        why = getattr(error, "verify_message", "") or getattr(error, "reason", "") or error
        hint = "for a certificate of your own CA, name that in the environment as SSL_CERT_FILE"
        if why in _NO_TLS:
            why, hint = "its port does not speak TLS", _without_tls(url)
        raise Unavailable(f"no encrypted connection to {text}: {why}", hint) from error


def _without_tls(url: SplitResult) -> str:
    """What to do where `https://` was given and the port does not speak it."""
    if url.hostname in _LOCAL_HOSTS:
        return f"write {url._replace(scheme='http').geturl()}"
    return "set tls_cert_path and tls_key_path on the gateway's machine, or name a port that speaks TLS"


def _speaks_tls(host: str, port: int) -> bool:
    """Whether a port does; who answers there does not matter, and is sent nothing."""
    import ssl  # noqa: PLC0415 - only where something has gone wrong, and it takes its time

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, port), timeout=_PROBE_SECONDS) as sock,
            context.wrap_socket(sock),
        ):
            return True
    except OSError:
        return False
