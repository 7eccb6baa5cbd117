"""The operators' API as any HTTP client sees it, and who gets anything from which of the two doors."""

import asyncio
import base64
import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from hermes_nodes.errors import ForeignUser
from hermes_nodes.gateway import Gateway
from hermes_nodes.gateway.callers import actor_of, peer_uid
from hermes_nodes.gateway.control import _errors_as_json
from hermes_nodes.operations import user_name
from tests.gateway.support import logged_in, raw_peer
from tests.harness import GatewayProcess, Home, NodeProcess, control_request
from tests.support import PATIENCE, mode

NOBODY = 65534

# -- the nodes' port ------------------------------------------------------------------------------


async def http(gateway: Gateway, request: str) -> tuple[int, bytes]:
    async with raw_peer(gateway.host, gateway.port) as peer:
        await peer.send(f"{request} HTTP/1.1\r\nHost: gateway\r\nContent-Length: 0\r\n\r\n".encode())
        head, _, body = (await peer.rest()).partition(b"\r\n\r\n")
        return int(head.split()[1]), body


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("GET /healthz", 200),
        ("GET /", 404),
        ("GET /v1/status", 404),
        ("GET /v1/nodes", 404),
        ("POST /v1/call", 404),
        ("POST /v1/pairings", 404),
        ("DELETE /v1/pairings/laptop", 404),
        ("GET /ws", 404),
        ("GET /ws/nodes/", 404),
        ("GET /ws/../v1/status", 404),
        ("GET /healthz/x", 404),
        ("POST /healthz", 405),
        ("POST /ws/nodes", 405),
        ("GET /ws/nodes", 400),
    ],
)
async def test_the_nodes_port_serves_the_endpoint_and_its_health(
    gateway: Gateway, request_line: str, status: int
) -> None:
    answered, body = await http(gateway, request_line)
    assert answered == status
    assert b"laptop" not in body
    assert b"version" not in body


async def test_health_tells_nothing_but_that(gateway: Gateway) -> None:
    assert await http(gateway, "GET /healthz") == (200, b'{"status": "ok"}')


# -- the control socket ---------------------------------------------------------------------------


def test_the_control_socket_and_its_folder_are_ours_alone_whatever_the_umask(
    home: Home, no_umask: None
) -> None:
    with home.gateway() as gateway:
        assert stat.S_ISSOCK(gateway.socket.stat().st_mode)
        assert mode(gateway.socket) == 0o600
        assert mode(gateway.socket.parent) == 0o700
        assert mode(home.path) == 0o700
        files = [path for path in home.path.rglob("*") if path.is_file()]
        assert {path.name: mode(path) for path in files} == {path.name: 0o600 for path in files}
        home.client.pair("laptop")
        assert mode(home.path / "nodes" / "tokens.db") == 0o600
        assert mode(home.path / ".env") == 0o600
        assert mode(home.path / "logs" / "nodes-audit.log") == 0o600


def test_a_socket_left_by_a_gateway_that_was_killed_is_replaced(home: Home) -> None:
    with home.gateway() as first:
        first.process.kill()
        first.process.wait(PATIENCE)
        assert first.socket.exists()
        with home.gateway() as second:
            assert home.client.status()["pid"] == second.process.pid
    assert not second.socket.exists()


#: Connects as somebody else and asks; prints the answer's status and the code of its error.
FOREIGNER = """
import json, os, socket, sys
os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
for request in sys.argv[3:]:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(sys.argv[1])
    end = "HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\nContent-Length: 0\\r\\n\\r\\n"
    sock.sendall(f"{request} {end}".encode())
    answer = b"".join(iter(lambda: sock.recv(65536), b""))
    head, _, body = answer.partition(b"\\r\\n\\r\\n")
    print(head.split()[1].decode(), json.loads(body)["error"]["code"], len(json.loads(body)))
"""
REQUESTS = [
    "GET /v1/status",
    "GET /v1/nothing",
    "POST /v1/nodes/laptop/exec",
    "DELETE /v1/pairings/laptop",
]


@pytest.fixture
def reachable_home() -> Iterator[Home]:
    """A home that is not below a folder closed to everybody else."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Home(Path(folder))


def test_a_foreign_user_who_gets_to_the_socket_gets_403_for_everything(reachable_home: Home) -> None:
    home = reachable_home
    if os.geteuid() != 0:
        # The kernel's word and what is made of it, which is all there is to the answer above.
        ours, _theirs = socket.socketpair(socket.AF_UNIX)
        assert peer_uid(ours) == os.geteuid()
        with pytest.raises(ForeignUser):
            actor_of(NOBODY, our_uid=os.geteuid())
        return
    with home.gateway() as gateway:
        for path in (home.path, gateway.socket.parent):
            path.chmod(0o755)
        gateway.socket.chmod(0o666)
        done = subprocess.run(
            [sys.executable, "-c", FOREIGNER, str(gateway.socket), str(NOBODY), *REQUESTS],
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
    assert done.stderr == b""
    assert done.stdout.decode().splitlines() == ["403 foreign_user 1"] * len(REQUESTS)
    assert home.trail(action="exec") == []


def test_the_kernel_says_who_is_at_the_other_end() -> None:
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        assert peer_uid(one) == os.geteuid()


@pytest.mark.parametrize(("uid", "our_uid"), [(1000, 1000), (0, 1000), (0, 0)])
def test_the_gateways_own_user_and_root_are_operators(uid: int, our_uid: int) -> None:
    assert actor_of(uid, our_uid=our_uid).name.startswith("local:")


@pytest.mark.parametrize(("uid", "our_uid"), [(1001, 1000), (1000, 0), (NOBODY, 0)])
def test_anybody_else_is_not(uid: int, our_uid: int) -> None:
    with pytest.raises(ForeignUser):
        actor_of(uid, our_uid=our_uid)


# -- requests and errors --------------------------------------------------------------------------


async def ask(gateway: Gateway, request: str, body: object = b"") -> tuple[int, Any]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, headers, answer = await control_request(gateway.control_socket, request, raw)
    assert headers["content-type"].startswith("application/json")
    return status, json.loads(answer)


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("GET /", 404),
        ("GET /v2/status", 404),
        ("GET /v1/nothing", 404),
        ("POST /v1/nodes/laptop/reboot", 404),
        ("POST /v1/status", 405),
        ("DELETE /v1/pairings/nobody", 404),
        ("POST /v1/nodes/nobody/exec", 400),
        ("POST /v1/call", 400),
    ],
)
async def test_what_there_is_not_is_said_in_json(gateway: Gateway, request_line: str, status: int) -> None:
    answered, document = await ask(gateway, request_line)
    assert answered == status
    assert set(document) == {"error"}
    message = document["error"]["message"]
    assert len(message.split()) > 3
    if answered in (404, 405) and "nobody" not in request_line:
        assert f"`{request_line}`" in message


@pytest.mark.parametrize(
    ("request_line", "body", "said"),
    [
        ("POST /v1/nodes/laptop/exec", b"{", "not valid"),
        ("POST /v1/nodes/laptop/exec", b"[]", "not valid"),
        ("POST /v1/nodes/laptop/exec", b"\xff", "not valid"),
        ("POST /v1/nodes/laptop/exec", b"[" * 100_000, "not valid"),
        ("POST /v1/nodes/laptop/exec", {}, "`command`"),
        ("POST /v1/nodes/laptop/exec", {"command": "a", "argv": ["b"]}, "`argv`"),
        ("POST /v1/nodes/laptop/exec", {"argv": []}, "`argv`"),
        ("POST /v1/nodes/laptop/exec", {"command": 7}, "`$.command`"),
        ("POST /v1/nodes/laptop/exec", {"command": "a", "comand": "b"}, "comand"),
        ("POST /v1/nodes/laptop/exec", {"command": "a", "timeout_ms": 0}, "`$.timeout_ms`"),
        ("POST /v1/nodes/laptop/exec", {"command": "a", "env": {"A=B": "c"}}, "'A=B'"),
        ("POST /v1/nodes/laptop/exec", {"command": "a", "stdin": True}, "upgraded"),
        ("POST /v1/nodes/laptop/exec", {"command": "a\0b"}, "NUL"),
        ("POST /v1/nodes/laptop/exec", {"argv": ["a", "\0"]}, "NUL"),
        ("POST /v1/nodes/laptop/exec", {"command": "a", "env": {"A": "\0"}}, "NUL"),
        ("POST /v1/nodes/laptop/exec", {"command": "a" * 600_000}, "bytes"),
        ("POST /v1/nodes/laptop/read", {}, "`path`"),
        ("POST /v1/nodes/laptop/write", {"path": "/x", "mode": "sometimes"}, "`$.mode`"),
        ("POST /v1/nodes/laptop/write", {"path": "/x", "perm": 0o10000}, "`$.perm`"),
        ("POST /v1/pairings", {"name": "a/b"}, "a/b"),
        ("POST /v1/pairings", {"nam": "laptop"}, "nam"),
        ("POST /v1/call", {"call": "exec", "node": "laptop", "command": "a"}, "Upgrade"),
    ],
)
async def test_a_bad_request_is_answered_with_what_is_wrong_with_it(
    home: Home, gateway: Gateway, request_line: str, body: object, said: str
) -> None:
    async with logged_in(home, gateway):
        status, document = await ask(gateway, request_line, body)
    assert status == 400
    assert document["error"]["code"] == "bad_request"
    assert said in document["error"]["message"]


async def test_a_request_over_a_mebibyte_is_refused(gateway: Gateway) -> None:
    body = json.dumps({"command": "a" * (1 << 20)}).encode()
    status, document = await ask(gateway, "POST /v1/nodes/laptop/exec", body)
    assert status == 413
    assert document["error"]["message"] == "the request has more than 1048576 bytes"
    assert "`-i`" in document["error"]["hint"]


# -- calls with any HTTP client -------------------------------------------------------------------


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Home, GatewayProcess, NodeProcess]]:
    home = Home(tmp_path_factory.mktemp("control"))
    with home.gateway() as gateway, home.node(gateway, "laptop", allow=[home.folder]) as node:
        yield home, gateway, node


async def lines(gateway: GatewayProcess, verb: str, body: object) -> list[dict[str, Any]]:
    status, headers, raw = await control_request(
        gateway.socket, f"POST /v1/nodes/laptop/{verb}", json.dumps(body).encode()
    )
    assert (status, headers["content-type"]) == (200, "application/x-ndjson")
    # What is sent in chunks has their sizes between its lines.
    return [json.loads(line) for line in raw.split(b"\r\n") if line.startswith(b"{")]


async def test_exec_answers_in_lines_of_json(
    running: tuple[Home, GatewayProcess, NodeProcess],
) -> None:
    _, gateway, _ = running
    said = await lines(gateway, "exec", {"command": "echo out; echo err >&2; printf '\\377'; exit 4"})
    result = said[-1]["result"]
    assert (result["status"], result["exit_code"]) == ("error", 4)
    out = [line for line in said[:-1] if line["stream"] == "stdout"]
    joined = b"".join(
        line["data"].encode() if "data" in line else base64.b64decode(line["data_b64"]) for line in out
    )
    assert joined == b"out\n\xff"
    assert [line["data"] for line in said[:-1] if line["stream"] == "stderr"] == ["err\n"]


async def test_a_file_is_written_and_read_in_one_request_each(
    running: tuple[Home, GatewayProcess, NodeProcess],
) -> None:
    home, gateway, _ = running
    path = str(home.folder / "note")
    content = base64.b64encode(b"hello\n").decode()
    (written,) = await lines(gateway, "write", {"path": path, "content_b64": content, "perm": 0o640})
    assert written["result"]["bytes_written"] == 6
    assert mode(Path(path)) == 0o640
    said = await lines(gateway, "read", {"path": path})
    assert [said[0], said[-1]["result"]["size_bytes"]] == [{"stream": "stdout", "data": "hello\n"}, 6]
    (emptied,) = await lines(gateway, "write", {"path": path})
    assert (emptied["result"]["status"], os.stat(path).st_size) == ("ok", 0)


async def test_a_client_that_hangs_up_ends_its_call(
    running: tuple[Home, GatewayProcess, NodeProcess],
) -> None:
    home, gateway, _ = running
    body = json.dumps({"command": "echo up; sleep 100"}).encode()
    head = f"POST /v1/nodes/laptop/exec HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    with home.rows(action="exec") as rows:
        reader, writer = await asyncio.open_unix_connection(str(gateway.socket))
        writer.write(head.encode() + body)
        await asyncio.wait_for(reader.readuntil(b'"up\\n"'), PATIENCE)
        writer.close()
        row = await asyncio.to_thread(next, rows)
    assert row["status"] == "cancelled"


@pytest.fixture
async def offline(home: Home, gateway: Gateway) -> Gateway:
    await asyncio.to_thread(home.client.pair, "laptop")
    return gateway


async def test_a_call_to_a_node_that_is_not_there_says_so(home: Home, offline: Gateway) -> None:
    for name, status in (("nobody", "unknown_node"), ("laptop", "not_connected")):
        _, _, raw = await control_request(
            offline.control_socket, f"POST /v1/nodes/{name}/exec", b'{"command": "true"}'
        )
        assert f'"status": "{status}"' in raw.decode()
    assert [row["status"] for row in home.trail(action="exec")] == ["error", "not_connected"]


async def test_who_asked_is_in_the_trail(home: Home, offline: Gateway) -> None:
    await control_request(offline.control_socket, "POST /v1/nodes/laptop/exec", b'{"command": "true"}')
    (row,) = home.trail(action="exec")
    assert (row["actor"], row["status"]) == (f"local:{user_name(os.geteuid())}", "not_connected")
    assert row["remote_addr"] is None


async def test_a_caller_that_leaves_in_the_middle_of_an_answer_is_no_fault_and_others_are() -> None:
    async def lose(_: web.Request) -> web.StreamResponse:
        raise ConnectionResetError

    for has_left in (True, False):
        transport = Mock()
        transport.is_closing.return_value = has_left
        request = make_mocked_request("GET", "/v1/audit", transport=transport)
        with nullcontext() if has_left else pytest.raises(ConnectionResetError):
            assert isinstance(await _errors_as_json(request, lose), web.Response)
