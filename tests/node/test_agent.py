"""When a node dials again, and what it makes of how a connection ended."""

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from hermes_nodes.audit import AuditLog
from hermes_nodes.errors import SettingsError
from hermes_nodes.node.agent import GOOD_SESSION, REPLACED_PAUSE, Backoff, NodeAgent, tls_settings
from hermes_nodes.node.config import NodeConfig
from hermes_nodes.node.state import StateFile
from tests.gateway.support import pair
from tests.harness import Home
from tests.support import SOON


def config(folder: Path, **changes: object) -> NodeConfig:
    settings: dict[str, object] = {
        "path": folder / "config.toml",
        "server_url": "ws://127.0.0.1:1/ws/nodes",
        "name": "laptop",
        "token": "hnt_" + "x" * 43,
        "backoff_initial": 0.01,
        "backoff_max": 0.05,
        **changes,
    }
    return NodeConfig(**settings)  # type: ignore[arg-type]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[NodeAgent]:
    with AuditLog(tmp_path / "audit.log") as trail:
        yield NodeAgent(config(tmp_path, backoff_initial=1.0, backoff_max=60.0), trail)


# -- the pauses -----------------------------------------------------------------------------------


def test_pauses_grow_by_their_factor_up_to_the_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.uniform", lambda _, high: high)
    backoff = Backoff(1.0, 60.0, 2.0)
    assert [backoff.pause() for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    backoff.reset()
    assert [backoff.pause() for _ in range(2)] == [1, 2]


def test_no_two_nodes_come_back_at_one_moment() -> None:
    pauses = {Backoff(8.0, 60.0, 2.0).pause() for _ in range(100)}
    assert len(pauses) > 90
    assert all(4.0 <= pause <= 8.0 for pause in pauses)
    assert max(pauses) - min(pauses) > 2


def test_a_longer_pause_is_for_once() -> None:
    backoff = Backoff(1.0, 2.0, 2.0)
    backoff.at_least(60.0)
    assert backoff.pause() == 60.0
    assert backoff.pause() <= 2.0


async def test_attempts_come_between_the_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("asyncio.sleep", sleep)
    attempts = 0
    async for _ in Backoff(1.0, 4.0, 2.0):
        attempts += 1
        assert len(slept) == attempts - 1  # the first one at once
        if attempts == 4:
            break
    assert all(low / 2 <= pause <= low for low, pause in zip((1, 2, 4), slept, strict=True))


# -- what is made of an end -----------------------------------------------------------------------


def test_a_good_session_starts_the_pauses_anew(agent: NodeAgent) -> None:
    pauses = [agent._backoff.pause() for _ in range(5)]
    assert pauses[-1] > 2
    agent._plan_next("connection closed", GOOD_SESSION)
    assert agent._backoff.pause() <= 1.0


def test_a_short_session_does_not(agent: NodeAgent) -> None:
    for _ in range(5):
        agent._plan_next("connection closed", GOOD_SESSION - 1)
        pause = agent._backoff.pause()
    assert pause > 2


@pytest.mark.parametrize("connected", [0.5, 3600.0])
def test_a_node_that_was_replaced_stays_away_for_a_minute(agent: NodeAgent, connected: float) -> None:
    assert "another machine" in agent._plan_next("replaced", connected)
    assert agent._backoff.pause() >= REPLACED_PAUSE >= 60.0


async def test_time_spent_in_dialling_makes_no_good_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway behind a firewall that drops: each dial takes longer than a good session lasts."""
    clock = itertools.count(0.0, GOOD_SESSION * 2)
    monkeypatch.setattr("hermes_nodes.node.agent.time", SimpleNamespace(monotonic=lambda: next(clock)))
    resets: list[None] = []
    monkeypatch.setattr(Backoff, "reset", lambda _: resets.append(None))
    waits = asyncio.Semaphore(0)

    def on_state(state: str, _: str) -> None:
        if state == "waiting":
            waits.release()

    with AuditLog(tmp_path / "audit.log") as trail:
        node = NodeAgent(config(tmp_path), trail, on_state)
        running = asyncio.create_task(node.run())
        for _ in range(3):
            await waits.acquire()
        node.stop()
        await running
    assert resets == []


# -- a life ---------------------------------------------------------------------------------------


async def test_a_node_tells_of_every_change(home: Home, tmp_path: Path) -> None:
    states: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    async def until(state: str) -> str:
        while (news := await asyncio.wait_for(states.get(), 10))[0] != state:
            pass
        return news[1]

    async with home.gateway_here() as gateway:
        token = await pair(home, "laptop")
        with AuditLog(tmp_path / "audit.log") as trail:
            settings = config(tmp_path, server_url=gateway.url, token=token)
            node = NodeAgent(settings, trail, lambda *news: states.put_nowait(news))
            running = asyncio.create_task(node.run())
            session_id = await until("connected")
            session = gateway.registry.get("laptop")
            assert session is not None
            assert session.id == session_id
            await asyncio.to_thread(home.client.revoke, "laptop")
            assert await until("waiting") == "revoked"
            assert "does not accept this node's token" in await until("waiting")
            node.stop()
            await asyncio.wait_for(running, 5)
            assert await until("stopped") == ""


async def test_a_stop_before_there_is_a_connection_is_immediate(tmp_path: Path) -> None:
    with AuditLog(tmp_path / "audit.log") as trail:
        node = NodeAgent(config(tmp_path, backoff_initial=60.0), trail)
        running = asyncio.create_task(node.run())
        node.stop()
        await asyncio.wait_for(running, SOON)


async def test_wrong_settings_end_the_node_with_their_sentence(tmp_path: Path) -> None:
    with AuditLog(tmp_path / "audit.log") as trail:
        node = NodeAgent(config(tmp_path, ca_cert=tmp_path / "no.pem"), trail)
        with pytest.raises(SettingsError, match=r"no\.pem"):
            await asyncio.wait_for(node.run(), 5)


def test_a_certificate_is_checked_by_its_pin_or_by_the_system(tmp_path: Path) -> None:
    assert tls_settings(config(tmp_path)) is True
    assert "Fingerprint" in type(tls_settings(config(tmp_path, pinned_cert_sha256="ab" * 32))).__name__


def test_a_state_is_what_a_living_node_last_said(tmp_path: Path) -> None:
    state = StateFile(tmp_path / "config.toml")
    assert state.read() is None
    state.write("waiting", "nobody answers")
    said = state.read()
    assert said is not None
    assert (said["state"], said["detail"]) == ("waiting", "nobody answers")
    state.write("stopped", "")
    assert state.read() is None
    (tmp_path / "status.json").write_text("{")
    assert state.read() is None
