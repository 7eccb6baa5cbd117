"""Where a gateway is, and what is said of what answers there instead."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from hermes_nodes.client import Client
from hermes_nodes.dialing import GatewayAddress, token_of
from hermes_nodes.errors import (
    GatewayLost,
    GatewayNotRunning,
    HermesNodesError,
    NoToken,
    Unavailable,
    UsageError,
)

TOKEN = "hno_x.y"


@pytest.mark.parametrize(
    ("text", "prefix", "host"),
    [
        ("https://gateway.example", "", "gateway.example"),
        ("https://gateway.example:7443/", "", "gateway.example:7443"),
        ("https://gateway.example/hermes/", "/hermes", "gateway.example"),
        ("HTTPS://gateway.example", "", "gateway.example"),
        ("http://127.0.0.1:7001", "", "127.0.0.1:7001"),
        ("http://localhost:7001", "", "localhost:7001"),
        ("http://[::1]:7001", "", "[::1]:7001"),
    ],
)
def test_a_url_becomes_the_head_of_each_request(text: str, prefix: str, host: str) -> None:
    address = GatewayAddress.parse(text, TOKEN)
    assert address.prefix == prefix
    assert address.headers == f"Host: {host}\r\nAuthorization: Bearer {TOKEN}\r\n"


def test_a_sockets_path_needs_no_token_and_sends_none() -> None:
    assert GatewayAddress.parse("/run/gateway.sock", TOKEN).headers == "Host: localhost\r\n"


@pytest.mark.parametrize(
    "text",
    [
        "ftp://gateway.example",
        "ws://127.0.0.1",
        "https://",
        "https://:7443",
        "https://gateway.example:0",
        "https://gateway.example:99999",
        "https://gateway.example:port",
        "https://gateway.example/?token=x",
        "https://gateway.example/#x",
        "https://ada@gateway.example",
        "https://gateway.example/a b",
        "https://gateway.example/ü",
        "https://bücher.example",
        "https://gateway.example/\x01",
        "https://[::1",
    ],
)
def test_what_is_no_gateways_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no gateway's address"):
        GatewayAddress.parse(text, TOKEN)


@pytest.mark.parametrize("text", ["http://gateway.example", "http://192.0.2.1:7001", "http://0.0.0.0:7001"])
def test_a_token_is_not_sent_in_the_open(text: str) -> None:
    with pytest.raises(UsageError, match="in the open"):
        GatewayAddress.parse(text, TOKEN)


def test_a_url_needs_a_token() -> None:
    with pytest.raises(NoToken):
        GatewayAddress.parse("https://gateway.example", "")


@pytest.mark.parametrize("token", ["a b", "a\r\nX: y", "tökén", "a\tb", "a\0"])
def test_a_token_that_no_header_can_hold_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(UsageError) as refused:
        GatewayAddress.parse("https://gateway.example", token)
    assert token not in refused.value.message


def test_the_token_is_taken_from_the_environment_without_its_newline() -> None:
    assert token_of({"HERMES_NODES_OPERATOR_TOKEN": f" {TOKEN}\n"}) == TOKEN
    assert token_of({}) == ""


# -- what answers ---------------------------------------------------------------------------------


@contextmanager
def server(said: bytes, *, close: bool) -> Iterator[str]:
    """Something that says this to whoever connects, and then closes or waits."""
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                peer, _ = listener.accept()
                with peer:
                    peer.sendall(said)
                    if close:
                        peer.shutdown(socket.SHUT_WR)
                    done.wait(20)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            done.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(20)


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"220 mail ESMTP\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.x 200 OK\r\n\r\n",
    ],
)
@pytest.mark.parametrize("way", ["nodes", "exec", "audit"])
def test_what_speaks_no_http_is_told_from_a_gateway_at_once(said: bytes, way: str) -> None:
    with server(said, close=False) as url:
        client = Client(url, token=TOKEN)
        ways: dict[str, Callable[[], object]] = {
            "nodes": client.nodes,
            "exec": lambda: client.exec("laptop", "true"),
            "audit": lambda: list(client.audit_rows()),
        }
        with pytest.raises(Unavailable, match="what answers there is no gateway") as failure:
            ways[way]()
    assert "--gateway" in failure.value.hint


def test_a_head_without_end_is_not_kept() -> None:
    with (
        server(b"HTTP/1.1 200 OK\r\nX: " + b"x" * (4 << 20), close=False) as url,
        pytest.raises(Unavailable, match="no gateway"),
    ):
        Client(url, token=TOKEN).nodes()


def test_a_gateway_that_hangs_up_is_lost() -> None:
    with server(b"", close=True) as url, pytest.raises(GatewayLost):
        Client(url, token=TOKEN).nodes()


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"", b"7"])
def test_another_web_server_is_told_from_a_gateway(body: bytes) -> None:
    said = b"HTTP/1.1 200 OK\r\n\r\n" + body
    with server(said, close=True) as url, pytest.raises(HermesNodesError, match="HTTP 200 and no JSON"):
        Client(url, token=TOKEN).nodes()


def test_another_json_has_no_nodes() -> None:
    with server(b"HTTP/1.1 200 OK\r\n\r\n{}", close=True) as url:
        assert Client(url, token=TOKEN).nodes() == []


def test_a_stream_of_rows_that_ends_is_no_end_of_the_trail() -> None:
    with server(b'HTTP/1.1 200 OK\r\n\r\n{"seq": 1}\n{"se', close=True) as url:
        rows = Client(url, token=TOKEN).audit_rows(follow=True)
        assert next(rows) == {"seq": 1}
        with pytest.raises(GatewayLost):
            next(rows)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "https://no-such-host.invalid", "https://.example"])
def test_where_nothing_answers_the_address_is_named(url: str) -> None:
    with pytest.raises(GatewayNotRunning) as failure:
        Client(url, token=TOKEN).nodes()
    assert url in failure.value.message


def test_tls_to_what_speaks_none_is_a_sentence() -> None:
    with (
        server(b"HTTP/1.1 400 Bad Request\r\n\r\n", close=True) as url,
        pytest.raises(Unavailable, match=r"no encrypted connection to .*: its port does not speak TLS"),
    ):
        Client(url.replace("http:", "https:"), token=TOKEN).nodes()
