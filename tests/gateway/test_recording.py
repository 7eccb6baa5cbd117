"""A gateway whose trail can't be written: calls are refused, or run; nothing is lost; it goes on alone."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from hermes_nodes import config
from hermes_nodes.audit import AuditLog
from hermes_nodes.audit import log as writer
from hermes_nodes.audit.verify import Report, chains_of, verify
from hermes_nodes.books import read_chains
from hermes_nodes.errors import AuditUnwritable
from hermes_nodes.gateway import Gateway
from hermes_nodes.keys import ensure_key
from hermes_nodes.protocol.messages import Exec, ExecResult
from tests.gateway.support import logged_in, pair, start_exec
from tests.harness import Home, ScriptedNode, until
from tests.support import files_limited_to

OPEN = {"HERMES_NODES_AUDIT_FAIL_OPEN": "true"}


async def requested(node: ScriptedNode) -> str:
    """The id of the next command that the node is sent."""
    while True:
        request = await node.receive()
        if isinstance(request, Exec):
            return request.id


async def answer(node: ScriptedNode, request_id: str) -> None:
    await node.send_data(request_id, 1, b"")
    await node.send_data(request_id, 2, b"")
    await node.send(ExecResult(id=request_id, status="ok"))


async def call(home: Home, node: ScriptedNode) -> str:
    """A whole call, which must succeed; its id."""
    calling = start_exec(home, "laptop", "true")
    request_id = await requested(node)
    await answer(node, request_id)
    assert (await calling).request_id == request_id
    return request_id


def limit(home: Home) -> int:
    """A size that the trail can't grow past; the journal's first places lie before it."""
    return home.settings.audit_log_path.stat().st_size + 20


def rows(home: Home, *request_ids: str) -> list[object]:
    return [row["status"] for name in request_ids for row in home.trail() if row["request_id"] == name]


def report(home: Home) -> Report:
    key, _ = ensure_key(home.settings, home.environ)
    stored = read_chains(home.settings.token_store_path, [key])
    assert stored is not None
    path = home.settings.audit_log_path
    return verify(path, stored[0], chains_of(stored[1], path))


@asynccontextmanager
async def serving(home: Home, **environ: str) -> AsyncIterator[tuple[Gateway, ScriptedNode]]:
    with AuditLog(home.settings.audit_log_path) as older:
        older.append(action="exec", status="ok", command="x" * 100_000)
    async with home.gateway_here(**environ) as gateway, logged_in(home, gateway) as node:
        yield gateway, node


async def test_a_full_disk_refuses_calls_loses_nothing_and_is_over_when_there_is_room(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(home) as (_, node):
        running = start_exec(home, "laptop", "sleep 60")
        kept = await requested(node)
        with files_limited_to(limit(home)):
            await answer(node, kept)
            await running
            for _ in range(3):
                with pytest.raises(AuditUnwritable, match="File too large"):
                    await start_exec(home, "laptop", "true")
            assert rows(home, kept) == []
        assert len([one for one in caplog.records if "calls are refused until" in one.message]) == 1
        assert rows(home, kept, await call(home, node)) == ["ok", "ok"]
        assert len([one for one in caplog.records if "can be written again" in one.message]) == 1
    assert report(home).ok


async def test_rows_that_are_owed_are_written_without_another_call(home: Home) -> None:
    async with serving(home) as (_, node):
        running = start_exec(home, "laptop", "sleep 60")
        kept = await requested(node)
        with files_limited_to(limit(home)):
            await answer(node, kept)
            await running
        await until(lambda: rows(home, kept) == ["ok"])
    assert report(home).ok


async def test_a_disk_without_room_refuses_a_call_before_it_is_sent(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(home) as (_, node):
        monkeypatch.setattr(writer, "LEAST_ROOM", 1 << 62)
        with pytest.raises(AuditUnwritable, match=r"nodes-audit\.log cannot be written"):
            await start_exec(home, "laptop", "true")
        monkeypatch.undo()
        await call(home, node)


async def test_a_folder_that_is_missing_is_made_again(home: Home) -> None:
    logs = home.settings.audit_log_path.parent
    async with serving(home) as (_, node):
        logs.rename(logs.with_name("away"))
        request_id = await call(home, node)
        assert rows(home, request_id) == ["ok"]
    assert report(home).damage is not None  # what was there before is missing


async def test_a_folder_that_can_not_be_refuses_calls_until_it_is_back(home: Home) -> None:
    logs = home.settings.audit_log_path.parent
    async with serving(home) as (_, node):
        running = start_exec(home, "laptop", "sleep 60")
        kept = await requested(node)
        logs.rename(logs.with_name("away"))
        logs.write_text("a file")
        with pytest.raises(AuditUnwritable, match=r"nodes-audit\.log cannot be written: Not a directory"):
            await start_exec(home, "laptop", "true")
        await answer(node, kept)
        await running
        logs.unlink()
        logs.with_name("away").rename(logs)
        assert rows(home, await call(home, node), kept) == ["ok", "ok"]
    assert report(home).ok


async def test_failing_open_runs_calls_and_says_so_once(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    logs = home.settings.audit_log_path.parent
    with caplog.at_level(logging.INFO):
        async with serving(home, **OPEN) as (_, node):
            logs.rename(logs.with_name("away"))
            logs.write_text("a file")
            lost = [await call(home, node) for _ in range(3)]
            logs.unlink()
            logs.with_name("away").rename(logs)
            kept = await call(home, node)
            assert rows(home, *lost, kept) == ["ok"]
    (note,) = home.trail(action="settings")
    assert (note["status"], note["command"]) == (
        "error",
        "audit_fail_open: 3 rows before this one could not be written",
    )
    said = [one.message for one in caplog.records if "audit_fail_open" in one.message]
    assert said == ["warning: audit_fail_open is set: calls run even if no row of them can be written"]
    assert len([one for one in caplog.records if "calls run without a row until" in one.message]) == 1
    assert report(home).ok


async def test_failing_open_starts_without_a_trail(home: Home) -> None:
    logs = home.settings.audit_log_path.parent
    home.path.mkdir()
    logs.write_text("a file")
    with pytest.raises(AuditUnwritable):
        async with home.gateway_here():
            pass
    async with home.gateway_here(**OPEN) as gateway:
        with pytest.raises(AuditUnwritable):  # a pairing is no call
            await pair(home, "laptop")
        logs.unlink()
        async with logged_in(home, gateway) as node:
            assert rows(home, await call(home, node)) == ["ok"]
    assert report(home).ok


@pytest.mark.parametrize("fsync", ["always", "never"])
async def test_every_way_to_sync_leaves_a_trail_that_verifies(home: Home, fsync: str) -> None:
    async with serving(home, HERMES_NODES_AUDIT_FSYNC=fsync) as (_, node):
        assert rows(home, await call(home, node)) == ["ok"]
    assert report(home).ok


async def test_the_head_is_in_the_store_a_moment_after_a_row(home: Home) -> None:
    async with serving(home) as (_, node):
        await call(home, node)
        key, _ = ensure_key(home.settings, home.environ)
        seq = home.trail()[-1]["seq"]

        def saved() -> bool:
            stored = read_chains(home.settings.token_store_path, [key])
            return stored is not None and stored[1].current.seq == seq

        await until(saved)
        assert report(home).ok


async def test_settings_read_again_are_a_row_with_the_keys_that_changed(home: Home) -> None:
    async with serving(home) as (gateway, _):
        changed = {**home.environ, "HERMES_NODES_RATE_LIMIT": "7", "HERMES_NODES_AUDIT_COMMANDS": "none"}
        gateway.reload(config.load({"port": "0"}, changed))
        gateway.reload(config.load({"port": "0"}, changed))
    first, second = home.trail(action="settings")
    assert first["command"] == "audit_commands, rate_limit_per_node"
    assert second["command"] is None
    assert str(first["actor"]).startswith("local:")


async def test_a_full_disk_can_be_told_to_let_calls_run(home: Home) -> None:
    logs = home.settings.audit_log_path.parent
    async with serving(home) as (gateway, node):
        logs.rename(logs.with_name("away"))
        logs.write_text("a file")
        with pytest.raises(AuditUnwritable):
            gateway.reload(config.load({"port": "0"}, home.environ))
        gateway.reload(config.load({"port": "0"}, {**home.environ, **OPEN}))
        await call(home, node)
        logs.unlink()
        logs.with_name("away").rename(logs)


async def test_connecting_and_leaving_have_the_node_as_their_actor_and_a_reason(home: Home) -> None:
    async with home.gateway_here() as gateway, logged_in(home, gateway):
        await asyncio.to_thread(home.client.revoke, "laptop")
    (connect,), (disconnect,) = home.trail(action="connect"), home.trail(action="disconnect")
    assert {connect["actor"], disconnect["actor"]} == {"node:laptop"}
    assert disconnect["error"] == "revoked"
