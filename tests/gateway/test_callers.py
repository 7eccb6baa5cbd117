"""Who gets to the operators' API over the network, and what everybody else is told."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest

from hermes_nodes.errors import ForeignUser, SettingsError
from hermes_nodes.gateway import Gateway
from hermes_nodes.gateway.callers import actor_of, host_name, is_loopback
from hermes_nodes.operators import TOKEN_PREFIX
from tests.gateway.support import raw_peer
from tests.harness import Home
from tests.network import LOOPBACK
from tests.support import PATIENCE, SOON

GARBAGE = f"{TOKEN_PREFIX}00000000-0000-4000-8000-000000000000.{'x' * 43}"


@pytest.fixture
async def open_gateway(home: Home) -> AsyncIterator[Gateway]:
    """A gateway that listens for operators on plain loopback, and does not wait for long."""
    environ = {**LOOPBACK, "HERMES_NODES_HANDSHAKE_TIMEOUT_SECONDS": "0.5"}
    async with home.gateway_here(**environ) as gateway:
        yield gateway


class Answer(NamedTuple):
    status: int
    content: bytes


async def asked(
    gateway: Gateway,
    request: str = "GET /v1/status",
    *,
    token: str | None = None,
    host: str = "localhost",
    headers: str = "",
    body: bytes = b"",
) -> Answer:
    """One request, as any program may send it."""
    url = urlsplit(gateway.control_url or "")
    authorization = "" if token is None else f"Authorization: Bearer {token}\r\n"
    head = (
        f"{request} HTTP/1.1\r\nHost: {host}\r\n{authorization}{headers}Content-Length: {len(body)}\r\n\r\n"
    )
    async with raw_peer(url.hostname or "", url.port or 0) as peer:
        await peer.send(head.encode() + body)
        top, _, content = (await peer.rest()).partition(b"\r\n\r\n")
    return Answer(int(top.split()[1]), content)


async def operator(home: Home, name: str = "ci", **options: float) -> str:
    made = await asyncio.to_thread(
        home.client.add_operator, name, allow=["list", "pair"], expires_in=options.get("expires_in")
    )
    return str(made["token"])


async def test_whoever_has_no_good_token_is_told_the_same(home: Home, open_gateway: Gateway) -> None:
    good, removed = await operator(home), await operator(home, "removed")
    await asyncio.to_thread(home.client.remove_operator, "removed")
    expired = await operator(home, "expired", expires_in=0.001)
    tokens = [
        None,
        "",
        "x",
        GARBAGE,
        removed,
        expired,
        good + "x",
        good[:-1],
        good.replace(".", ""),
        "hno_é",
    ]
    answers = {await asked(open_gateway, token=token) for token in tokens}
    assert {answer.status for answer in answers} == {401}
    assert len(answers) == 1
    assert (await asked(open_gateway, token=good)).status == 200


async def test_loopback_is_no_authentication(open_gateway: Gateway) -> None:
    forwarded = "X-Forwarded-For: 127.0.0.1\r\nX-Operator: local:root\r\n"
    assert (await asked(open_gateway, headers=forwarded)).status == 401


async def test_a_token_that_is_not_a_bearers_is_none(home: Home, open_gateway: Gateway) -> None:
    token = await operator(home)
    for headers in (
        f"Authorization: Basic {token}\r\n",
        f"Authorization: {token}\r\n",
        f"X-Token: {token}\r\n",
    ):
        assert (await asked(open_gateway, headers=headers)).status == 401
    assert (await asked(open_gateway, f"GET /v1/status?token={token}")).status == 401


async def test_the_trail_alone_has_the_true_reason(home: Home, open_gateway: Gateway) -> None:
    good = await operator(home)
    expired = await operator(home, "brief", expires_in=0.001)
    for token in (None, GARBAGE, expired, good[:-1]):
        await asked(open_gateway, token=token)
    assert [row["error"] for row in home.trail(action="auth")] == [
        "no operator token",
        "not an operator's token, or a removed one's",
        "operator brief has expired",
        "wrong token for operator ci",
    ]


async def test_a_refusal_is_in_the_trail_without_its_token(home: Home, open_gateway: Gateway) -> None:
    await asked(open_gateway, token=GARBAGE)
    (row,) = home.trail(action="auth")
    assert (row["status"], row["remote_addr"]) == ("denied", "127.0.0.1")
    assert GARBAGE not in str(row)


@pytest.mark.parametrize("origin", ["http://localhost", "null", "https://evil.example", ""])
async def test_a_browsers_page_does_not_reach_the_gateway(
    home: Home, open_gateway: Gateway, origin: str
) -> None:
    token = await operator(home)
    assert (await asked(open_gateway, token=token, headers=f"Origin: {origin}\r\n")).status == 403


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "", "localhost.evil.example", "[::2]"])
async def test_a_name_rebound_to_loopback_does_not_reach_the_gateway(
    home: Home, open_gateway: Gateway, host: str
) -> None:
    assert (await asked(open_gateway, token=await operator(home), host=host)).status == 403


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:7000", "LOCALHOST"])
async def test_loopback_by_any_of_its_names_is_served(home: Home, open_gateway: Gateway, host: str) -> None:
    assert (await asked(open_gateway, token=await operator(home), host=host)).status == 200


async def test_an_unknown_route_tells_a_stranger_nothing(home: Home, open_gateway: Gateway) -> None:
    assert (await asked(open_gateway, "GET /v1/nothing")).status == 401
    assert (await asked(open_gateway, "POST /v1/pairings", body=b"not json")).status == 401
    token = await operator(home)
    assert (await asked(open_gateway, "GET /v1/nothing", token=token)).status == 404
    assert (await asked(open_gateway, "PUT /v1/nodes", token=token)).status == 405
    assert (await asked(open_gateway, "POST /v1/pairings", token=token, body=b"not json")).status == 400


@pytest.mark.parametrize("expected", ["nonsense", "100-continue", "100-continue, nonsense"])
@pytest.mark.parametrize("request_line", ["GET /v1/status", "GET /v1/nothing", "PUT /v1/nodes"])
async def test_what_a_stranger_expects_is_not_heard(
    home: Home, open_gateway: Gateway, request_line: str, expected: str
) -> None:
    answer = await asked(open_gateway, request_line, headers=f"Expect: {expected}\r\n")
    assert answer == await asked(open_gateway)
    assert answer.status == 401
    assert len(home.trail(action="auth")) == 2  # one of each request


async def test_an_operator_is_told_to_continue_and_not_of_anything_else_that_it_expects(
    home: Home, open_gateway: Gateway
) -> None:
    token = await operator(home)
    answer = await asked(open_gateway, token=token, headers="Expect: nonsense\r\n")
    assert answer.status == 417
    assert b"'nonsense' is nothing that can be expected" in answer.content
    url = urlsplit(open_gateway.control_url or "")
    head = f"POST /v1/pairings HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
    async with asyncio.timeout(PATIENCE), raw_peer(url.hostname or "", url.port or 0) as peer:
        await peer.send(f"{head}Expect: 100-Continue\r\nContent-Length: 18\r\n\r\n".encode())
        assert await peer.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await peer.send(b'{"name": "laptop"}')
        assert (await peer.rest()).startswith(b"HTTP/1.1 201")


BROKEN = {
    "no gzip": ("gzip", b"nonsense"),
    "a wrong sum": ("gzip", gzip.compress(b"{}")[:-8] + bytes(8)),
    "half": ("gzip", gzip.compress(b'{"name": "laptop"}')[:-6]),
    "more behind it": ("gzip", gzip.compress(b"{}") + b"nonsense"),
    "no deflate": ("deflate", b"\xff\xffnonsense"),
    "unknown": ("x-unknown", b'{"name": "laptop"}'),
    "a bomb": ("GZIP", gzip.compress(bytes(20_000_000))),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("request_line", ["POST /v1/pairings", "GET /v1/status", "POST /v1/call"])
async def test_a_body_that_is_compressed_is_refused_and_no_fault_of_ours(
    home: Home, open_gateway: Gateway, kind: str, request_line: str, caplog: pytest.LogCaptureFixture
) -> None:
    encoding, body = BROKEN[kind]
    headers = f"Content-Encoding: {encoding}\r\n"
    token = await operator(home)
    answer = await asked(open_gateway, request_line, token=token, headers=headers, body=body)
    assert answer.status == 400
    assert json.loads(answer.content)["error"]["message"] == "the request's body is compressed"
    assert (await asked(open_gateway, request_line, headers=headers, body=body)).status == 401
    async with raw_peer(open_gateway.host, open_gateway.port) as peer:
        head = f"GET /healthz HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
        await peer.send(head.encode() + body)
        await peer.rest()
    assert [record for record in caplog.records if record.exc_info] == []


async def test_a_body_that_says_it_is_as_it_is_is_read(home: Home, open_gateway: Gateway) -> None:
    headers, body = "Content-Encoding: identity\r\n", b'{"name": "laptop"}'
    token = await operator(home)
    answer = await asked(open_gateway, "POST /v1/pairings", token=token, headers=headers, body=body)
    assert answer.status == 201


async def test_a_body_of_more_than_a_mebibyte_is_refused(home: Home, open_gateway: Gateway) -> None:
    token = await operator(home)
    answer = await asked(open_gateway, "POST /v1/pairings", token=token, body=b" " * (1024 * 1024 + 1))
    assert answer.status == 413
    assert b"more than 1048576 bytes" in answer.content


async def test_a_body_that_is_just_not_too_long_is_read(home: Home, open_gateway: Gateway) -> None:
    body = b'{"name": "laptop"}'.ljust(1024 * 1024)
    answer = await asked(open_gateway, "POST /v1/pairings", token=await operator(home), body=body)
    assert answer.status == 201


async def test_a_strangers_long_body_is_refused_for_want_of_a_token(open_gateway: Gateway) -> None:
    assert (await asked(open_gateway, "POST /v1/pairings", body=b" " * 500_000)).status == 401


async def test_an_unfinished_head_is_cut_off(open_gateway: Gateway) -> None:
    url = urlsplit(open_gateway.control_url or "")
    async with asyncio.timeout(PATIENCE), raw_peer(url.hostname or "", url.port or 0) as peer:
        await peer.send(b"GET /v1/status HTTP/1.1\r\nHost: local")
        began = asyncio.get_running_loop().time()
        assert await peer.rest() == b""
        assert asyncio.get_running_loop().time() - began < SOON


async def test_a_head_longer_than_any_is_refused(open_gateway: Gateway) -> None:
    url = urlsplit(open_gateway.control_url or "")
    async with raw_peer(url.hostname or "", url.port or 0) as peer:
        await peer.send(b"GET /v1/status HTTP/1.1\r\n" + b"X-Some: thing\r\n" * 2000)
        assert (await peer.rest()).startswith(b"HTTP/1.1 431")


async def test_each_answer_ends_its_connection(home: Home, open_gateway: Gateway) -> None:
    url = urlsplit(open_gateway.control_url or "")
    token = await operator(home)
    one = f"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
    async with raw_peer(url.hostname or "", url.port or 0) as peer:
        await peer.send(one.encode() * 2)
        assert (await peer.rest()).count(b"HTTP/1.1 200") == 1


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "gateway.example:0"])
async def test_tokens_do_not_travel_in_the_open(home: Home, listen: str) -> None:
    with pytest.raises(SettingsError, match="in the open") as refused:
        async with home.gateway_here(HERMES_NODES_CONTROL_LISTEN=listen):
            pass
    assert refused.value.exit_status == 78


async def test_the_nodes_port_serves_no_operators(home: Home, open_gateway: Gateway) -> None:
    token = await operator(home)
    async with raw_peer(open_gateway.host, open_gateway.port) as peer:
        head = f"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
        await peer.send(head.encode())
        assert (await peer.rest()).startswith(b"HTTP/1.1 404")


def test_a_foreign_user_is_nobody() -> None:
    assert actor_of(0, our_uid=1000).name.startswith("local:")
    with pytest.raises(ForeignUser):
        actor_of(1001, our_uid=1000)


@pytest.mark.parametrize(
    ("header", "name"),
    [("a:1", "a"), ("[::1]:1", "::1"), ("A.b", "a.b"), ("", ""), ("[::1", "::1")],
)
def test_a_host_header_is_read_without_its_port(header: str, name: str) -> None:
    assert host_name(header) == name


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("[::1]", True), ("localhost", True),
     ("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("localhost.example", False)],
)  # fmt: skip
def test_only_loopback_is_loopback(host: str, local: bool) -> None:
    assert is_loopback(host) is local
