"""The whole flow with a real gateway, a real node process and a real shell, one test per stage."""

import json
import re
import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from hermes_nodes.protocol.messages import Bye, Ping, RateLimit
from tests.harness import GatewayProcess, Home, NodeProcess, scripted_node

RATE_LIMIT = 20


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("flow"))


@pytest.fixture(scope="module")
def gateway(home: Home) -> Iterator[GatewayProcess]:
    with home.gateway(HERMES_NODES_RATE_LIMIT=str(RATE_LIMIT)) as running:
        yield running


@pytest.fixture(scope="module")
def node(home: Home, gateway: GatewayProcess) -> Iterator[NodeProcess]:
    with home.node(gateway, "laptop", allow=[home.folder]) as running:
        yield running


def test_pairing_gives_a_token_once_and_keeps_it_only_encrypted(
    home: Home, gateway: GatewayProcess
) -> None:
    token = home.pair("paired")
    assert re.fullmatch(r"hnt_[A-Za-z0-9_-]{43}", token)
    key = (home.path / ".env").read_text().partition("=")[2].strip().strip("'\"")
    with sqlite3.connect(home.settings.token_store_path) as database:
        secrets = [row[0] for row in database.execute("SELECT secret FROM pairing_tokens")]
    database.close()
    assert token in [Fernet(key).decrypt(secret).decode() for secret in secrets]
    files = [path for path in home.path.rglob("*") if path.is_file()]
    assert not [path for path in files if token.encode() in path.read_bytes()]
    again = home.run("pair", "paired")
    assert (again.returncode, again.stdout) == (73, b"")


def test_a_node_connects_and_is_listed_with_what_it_said_of_itself(home: Home, node: NodeProcess) -> None:
    view = home.node_view("laptop")
    assert view["state"] == "connected"
    assert view["session_id"] == node.session_id
    assert uuid.UUID(node.session_id).version == 4
    assert view["encrypted"] is True
    assert "stream/1" in json.dumps(view["capabilities"])
    assert view["platform"] == "linux"
    assert view["remote_addr"] == "127.0.0.1"


def test_a_command_runs_in_a_real_shell_with_its_streams_and_exit_code(
    home: Home, node: NodeProcess
) -> None:
    done = home.run("exec", "laptop", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")
    document = json.loads(home.run("exec", "--json", "laptop", "echo $HOME; kill -9 $$").stdout)
    assert (document["status"], document["exit_code"], document["signal"]) == ("error", 137, "KILL")
    assert document["stdout"].strip() == str(Path.home())


def test_files_are_written_and_read_where_the_node_allows_it(home: Home, node: NodeProcess) -> None:
    target = home.folder / "note.bin"
    content = bytes(range(256)) * 4096
    assert home.run("write", "laptop", str(target), stdin=content).returncode == 0
    assert target.read_bytes() == content
    assert home.run("read", "laptop", str(target)).stdout == content
    refused = home.run("read", "laptop", "/etc/passwd")
    assert (refused.returncode, refused.stdout) == (77, b"")


def test_a_call_leaves_exactly_one_row_in_the_trail(home: Home, node: NodeProcess) -> None:
    document = json.loads(home.ok("exec", "--json", "laptop", "echo audited"))
    rows = [row for row in home.trail() if row["request_id"] == document["request_id"]]
    assert len(rows) == 1
    (row,) = rows
    assert uuid.UUID(str(row["request_id"])).version == 4
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(row["ts"]))
    assert (row["node"], row["action"], row["status"], row["exit_code"]) == ("laptop", "exec", "ok", 0)
    assert isinstance(row["duration_ms"], int)
    assert str(row["actor"]).startswith("local:")
    assert row["command"] == "echo audited"
    # The node keeps a trail of its own, under the same id.
    assert str(document["request_id"]) in (node.folder / "audit.log").read_text()


def test_a_node_that_leaves_is_unregistered(home: Home, gateway: GatewayProcess) -> None:
    with home.rows(action="disconnect", node="leaver") as rows:
        with home.node(gateway, "leaver"):
            assert home.node_view("leaver")["state"] == "connected"
        next(rows)
    assert home.node_view("leaver")["state"] == "disconnected"
    assert home.node_view("leaver")["session_id"] is None


async def test_revoking_closes_the_live_session_and_refuses_the_next(
    home: Home, gateway: GatewayProcess
) -> None:
    token = home.pair("doomed")
    async with scripted_node(gateway.url) as live:
        await live.log_in("doomed", token)
        home.ok("revoke", "doomed")
        assert await live.receive() == Bye(reason="revoked")
        assert await live.closed() == 4006
    async with scripted_node(gateway.url) as again:
        with pytest.raises(Exception, match="invalid_token"):
            await again.log_in("doomed", token)
        assert await again.closed() == 4001
    assert home.node_view("doomed")["state"] == "revoked"


async def test_a_node_over_its_rate_limit_is_told_so_and_closed(
    home: Home, gateway: GatewayProcess
) -> None:
    token = home.pair("chatty")
    async with scripted_node(gateway.url) as node:
        await node.log_in("chatty", token)
        for _ in range(RATE_LIMIT + 1):
            await node.send(Ping())
        answer = await node.receive()
        while not isinstance(answer, RateLimit):
            answer = await node.receive()
        assert answer == RateLimit(
            reason="rate_limit_exceeded", code=4004, node_name="chatty", limit_per_second=RATE_LIMIT
        )
        assert await node.closed() == 4004
