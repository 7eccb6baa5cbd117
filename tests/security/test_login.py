"""Nothing is to be had before a login, from wherever one comes."""

import socket
from urllib.parse import urlsplit

import pytest

from hermes_nodes.config import FILE_NAME
from hermes_nodes.gateway.routes import ROUTES
from tests.conformance.node import connect
from tests.harness import Home
from tests.security.place import Headers, Place
from tests.support import PATIENCE

PATHS = [
    (route.method, route.path.replace("{name}", "web").replace("{call:", "").partition("|")[0])
    for route in ROUTES
]
CREDENTIALS: dict[str, Headers] = {
    "nothing": {},
    "an empty token": {"Authorization": "Bearer "},
    "another scheme": {"Authorization": "Basic cm9vdDpyb290"},
    "a token that nobody has": {"Authorization": "Bearer hno_" + "a" * 36 + "." + "b" * 43},
    "a cookie": {"Cookie": "token=local:root"},
}


@pytest.mark.parametrize("shown", CREDENTIALS.values(), ids=CREDENTIALS)
def test_a_method_callable_before_login(place: Place, shown: Headers) -> None:
    for method, path in [*PATHS, ("GET", "/v1/nothing"), ("POST", "/"), ("TRACE", "/v1/status")]:
        answer = place.ask(method, path, body=b"[" * 1000, headers=shown)
        assert answer.status == 401, (method, path)
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert b"web" not in answer.body


def test_the_token_of_a_node_is_no_operators(place: Place) -> None:
    assert place.ask("GET", "/v1/status", place.node.token).status == 401


@pytest.mark.parametrize("kind", ["ping", "exec_result", "exec", "bye", "auth", "hello_ack", "auth_ok"])
async def test_a_message_taken_before_login(place: Place, kind: str) -> None:
    async with connect(place.gateway.url) as node:
        await node.send_plain({"type": kind, "id": "x", "node_name": "web", "token": "t", "ts": "x"})
        assert (await node.receive_plain())["reason"] == "expected_hello"
        assert await node.closed() == 4003


async def test_a_message_taken_between_hello_and_auth(place: Place) -> None:
    async with connect(place.gateway.url) as node:
        await node.greet("web")
        await node.send_plain({"type": "ping", "ts": "x"})
        assert (await node.receive_plain())["reason"] == "expected_auth"
        assert await node.closed() == 4003
    assert place.local.nodes("web")[0]["session_id"] == place.node.session_id


def test_loopback_taken_for_authentication(place: Place) -> None:
    """Neither being on this machine is a login, nor saying that one is, through a proxy or otherwise."""
    local = ["127.0.0.1", "::1", "localhost"]
    claims: list[Headers] = [
        {name: value}
        for name in ("X-Forwarded-For", "X-Real-IP", "Forwarded", "Client-IP")
        for value in local
    ]
    for headers in [{}, *claims]:
        assert place.ask("GET", "/v1/nodes", headers=headers).status == 401
        assert place.ask("POST", "/v1/nodes/web/exec", body=b"{}", headers=headers).status == 401


async def test_loopback_taken_for_a_nodes_login(place: Place) -> None:
    async with connect(place.gateway.url) as node:
        await node.greet("web")
        await node.auth("web", token="hnt_wrong")
        assert (await node.receive_plain())["type"] == "auth_err"


BROWSERS = ["http://evil.example", "null", "http://127.0.0.1", "http://localhost"]


@pytest.mark.parametrize("origin", BROWSERS)
def test_a_browser_page_reaching_the_gateway(place: Place, origin: str) -> None:
    """Not even with a token that the page should have come by."""
    token = place.token("list", "exec")
    for shown in ("", token):
        for method in ("GET", "POST", "OPTIONS"):
            answer = place.ask(method, "/v1/nodes", shown, headers={"Origin": origin})
            assert answer.status == 403
            assert not [name for name in answer.headers if name.lower().startswith("access-control")]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", ""])
def test_a_name_rebound_to_loopback_reaching_the_gateway(place: Place, host: str) -> None:
    assert place.ask("GET", "/v1/nodes", place.token("list"), headers={"Host": host}).status == 403


@pytest.mark.parametrize("origin", BROWSERS)
async def test_a_browser_page_getting_anything_from_the_nodes_port(place: Place, origin: str) -> None:
    """A page may open a WebSocket to anywhere; what it can't do is prove itself."""
    async with connect(place.gateway.url, {"Origin": origin}) as node:
        await node.greet("web")
        await node.auth("web", token="x")
        assert (await node.receive_plain())["type"] == "auth_err"


def test_what_a_browser_can_post_without_asking_reaching_the_control_socket(place: Place) -> None:
    """The socket is no address that a page could name, and it is ours alone."""
    assert place.gateway.socket.stat().st_mode & 0o777 == 0o600
    port = urlsplit(place.gateway.url).port
    assert place.gateway.socket.is_socket()
    with socket.create_connection(("127.0.0.1", port or 0), PATIENCE) as peer:
        peer.sendall(b"POST /v1/pairings HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
        assert peer.recv(100).split()[1] == b"404"


# -- settings that are not what they seem -----------------------------------------------------------


def refuses_to_start(home: Home, *options: str, **environ: str) -> str:
    """Why `serve` does not start; it is stopped by the test's time limit if it does."""
    done = home.run("serve", "--port", "0", *options, **environ)
    assert done.returncode not in (0, 70), done.stderr
    assert not (home.path / "run" / "nodes.sock").exists()
    return done.stderr.decode()


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with a pairing in it."""
    home = Home(tmp_path_factory.mktemp("used"))
    home.pair("laptop")
    return home


def test_a_setting_for_authentication_that_is_ignored(used: Home) -> None:
    """A gateway that can't load its key does not start: not with a new key, nor with none."""
    before = used.settings.token_store_path.read_bytes()
    saved = used.settings.env_path.read_bytes()
    assert "not a valid token key" in refuses_to_start(used, HERMES_NODES_TOKEN_KEY="nonsense")
    assert "key" in refuses_to_start(used, HERMES_NODES_TOKEN_KEY="A" * 43 + "=")
    used.settings.env_path.write_bytes(b"")
    try:
        assert "there is no key" in refuses_to_start(used)
        assert used.settings.env_path.read_bytes() == b""
    finally:
        used.settings.env_path.write_bytes(saved)
    assert used.settings.token_store_path.read_bytes() == before


@pytest.mark.parametrize(
    "environ",
    [
        {"HERMES_NODES_CONTROL_LISTEN": "0.0.0.0:0"},
        {"HERMES_NODES_TLS_CERT_PATH": "/nowhere.pem"},
        {"HERMES_NODES_TLS_CERT_PATH": "/nowhere.pem", "HERMES_NODES_TLS_KEY_PATH": "/nowhere.pem"},
        {"HERMES_NODES_TRUSTED_PROXIES": "everyone"},
        {"HERMES_NODES_HANDSHAKE_TIMEOUT_SECONDS": "never"},
    ],
    ids=" ".join,
)
def test_a_setting_that_can_not_be_kept_does_not_start_a_gateway(
    used: Home, environ: dict[str, str]
) -> None:
    assert refuses_to_start(used, **environ).startswith("hermes-nodes: error: ")


def test_a_setting_that_is_misspelt_does_not_start_a_gateway(used: Home) -> None:
    config = used.path / FILE_NAME
    config.write_text("tls_cert_pth: /x\n")
    try:
        assert "tls_cert_pth" in refuses_to_start(used)
    finally:
        config.unlink()
