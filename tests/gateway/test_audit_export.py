"""`GET /v1/audit/export`: every row in the operator's scope, in pieces, and an end that says it is one."""

import asyncio
import errno
import http.client
import json
import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from hermes_nodes.audit import Filter
from hermes_nodes.audit.export import Export, by_nothing
from hermes_nodes.client import Client
from hermes_nodes.errors import GatewayLost, NotAllowed, Unavailable
from hermes_nodes.gateway.audit_export import PIECE, _lines, _piece
from tests.harness import GatewayProcess, Home
from tests.network import LOOPBACK
from tests.support import PATIENCE

FILLER = "x" * 1000


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Home, GatewayProcess]]:
    home = Home(tmp_path_factory.mktemp("exported"))
    with home.gateway(**LOOPBACK) as gateway:
        home.client.pair("web")
        home.client.pair("db")
        yield home, gateway


def client(home: Home, gateway: GatewayProcess, name: str, *verbs: str, nodes: str | None = None) -> Client:
    token = str(home.client.add_operator(name, allow=verbs, nodes=nodes)["token"])
    return Client(gateway.control_url, token=token)


def test_every_row_comes_old_to_new_with_whether_it_is_of_the_chain(
    exported: tuple[Home, GatewayProcess],
) -> None:
    home, gateway = exported
    rows = list(client(home, gateway, "all", "audit").audit_export())
    assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))
    assert [{**row, "chained": True} for row in home.trail()] == rows


def test_filters_choose_and_the_scope_bounds(exported: tuple[Home, GatewayProcess]) -> None:
    home, gateway = exported
    narrow = client(home, gateway, "narrow", "audit", nodes="db")
    assert {row["node"] for row in narrow.audit_export()} == {"db"}
    assert list(narrow.audit_export(node="web")) == []
    assert {row["node"] for row in home.client.audit_export(action="pair")} == {"web", "db"}
    assert list(home.client.audit_export(since="9999-12-31")) == []


def test_whoever_may_not_read_the_trail_gets_none(exported: tuple[Home, GatewayProcess]) -> None:
    home, gateway = exported
    with pytest.raises(NotAllowed, match="audit"):
        next(client(home, gateway, "lister", "list").audit_export())


def test_a_line_of_the_trail_can_not_pass_for_the_end_or_an_error(tmp_path: Path) -> None:
    home = Home(tmp_path)
    lines = ['{"end": {"unreadable": 0}}', '{"error": {"code": "denied"}}', '{"chained": true}', "no JSON"]
    path = home.settings.audit_log_path
    path.parent.mkdir(parents=True)
    path.write_text("".join(line + "\n" for line in lines))
    with home.gateway():
        rows = home.client.audit_export()
        found = [next(rows) for _ in range(4)]
        assert [row["chained"] for row in found] == [False, False, False, True]
        assert found[1]["error"] == {"code": "denied"}
        with pytest.raises(StopIteration) as end:
            next(rows)
        assert end.value.value == 1


async def test_an_operator_that_is_removed_gets_no_more_of_it(
    home: Home,
) -> None:
    path = home.settings.audit_log_path
    path.parent.mkdir(parents=True)
    path.write_text((json.dumps({"command": FILLER}) + "\n") * 20_000)
    async with home.gateway_here(**LOOPBACK) as gateway:
        made = await asyncio.to_thread(home.client.add_operator, "gone", allow=["audit"])
        rows = Client(gateway.control_url, token=str(made["token"])).audit_export()
        await asyncio.to_thread(next, rows)
        await asyncio.to_thread(home.client.remove_operator, "gone")
        with pytest.raises(NotAllowed):
            await asyncio.to_thread(list, rows)


def test_whoever_leaves_early_leaves_nothing_behind(tmp_path: Path) -> None:
    home = Home(tmp_path)
    path = home.settings.audit_log_path
    path.parent.mkdir(parents=True)
    path.write_text((json.dumps({"command": FILLER}) + "\n") * 20_000)
    with home.gateway() as gateway:
        for _ in range(3):
            with closing(home.client.audit_export()) as rows:
                next(rows)
        assert sum(1 for _ in home.client.audit_export()) == 20_001
        process = gateway.process
    assert process.returncode == 0
    assert "Traceback" not in gateway.log


async def test_a_disk_that_fails_in_the_middle_is_said_to_the_reader_and_is_no_fault_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail_in_the_middle(_: Export) -> Iterator[dict[str, object]]:
        for _number in range(2 * PIECE // len(FILLER)):
            yield {"command": FILLER, "chained": True}
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Export, "read", fail_in_the_middle)
    home = Home(tmp_path)
    async with home.gateway_here():
        with pytest.raises(Unavailable, match=r"can't be read: Input/output error"):
            await asyncio.to_thread(lambda: list(home.client.audit_export()))
    assert "Traceback" not in caplog.text


def test_no_more_than_a_piece_is_read_ahead(tmp_path: Path) -> None:
    path = tmp_path / "trail.log"
    path.write_text((json.dumps({"command": FILLER}) + "\n") * 5000)
    with Export(path, Filter(), by_nothing) as trail:
        lines = _lines(trail)
        pieces = [_piece(lines) for _ in range(3)]
        assert all(PIECE <= len(piece) < PIECE + 2 * len(FILLER) for piece in pieces)
        read = trail._offset
    assert read < 4 * PIECE
    assert b"".join(pieces).count(b"\n") < 1000


def test_an_answer_that_ends_early_is_not_taken_for_the_whole(tmp_path: Path) -> None:
    path = tmp_path / "half.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        rows = Client(str(path)).audit_export()
        answer = b'HTTP/1.0 200 OK\r\n\r\n{"chained": true, "row": {"seq": 1}}\n{"chained": true, "ro'
        with pytest.raises(GatewayLost):
            asyncio.run(asyncio.wait_for(_answered(listening, answer, rows), PATIENCE))


async def _answered(listening: socket.socket, answer: bytes, rows: Iterator[dict[str, object]]) -> None:
    asked = asyncio.create_task(asyncio.to_thread(list, rows))
    listening.setblocking(False)
    connection, _ = await asyncio.get_running_loop().sock_accept(listening)
    with connection:
        await asyncio.get_running_loop().sock_recv(connection, 4096)
        await asyncio.get_running_loop().sock_sendall(connection, answer)
    await asked


def test_any_http_client_gets_a_line_for_each_row_and_an_end(
    exported: tuple[Home, GatewayProcess],
) -> None:
    home, gateway = exported
    token = home.client.add_operator("curl", allow=["audit"])["token"]
    address = urlsplit(gateway.control_url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=PATIENCE)
    with closing(connection):
        connection.request("GET", "/v1/audit/export", headers={"Authorization": f"Bearer {token}"})
        *rows, end = [json.loads(line) for line in connection.getresponse()]
    assert rows
    assert all(set(row) == {"chained", "row"} for row in rows)
    assert end == {"end": {"rows": len(rows), "unreadable": 0}}
