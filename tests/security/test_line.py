"""Whoever holds the line can cut it, and nothing else: both ends notice whatever is changed on it."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import pytest

from hermes_nodes.gateway import Gateway
from hermes_nodes.protocol.codec import Frame
from tests.conformance.node import connect
from tests.gateway.support import pair, start_exec
from tests.harness import Home, until
from tests.security.line import Change, Json, Line, altered, line_to
from tests.security.support import OurNode, our_node
from tests.support import PATIENCE


class Tapped(NamedTuple):
    """A gateway, and a line to it that somebody holds."""

    home: Home
    gateway: Gateway
    line: Line
    url: str
    token: str
    folder: Path

    async def outcome(self) -> tuple[str, str]:
        """What our node makes of one attempt over this line."""
        async with our_node(self.url, "laptop", self.token, self.folder) as node:
            return await node.state("connected", "waiting")


@pytest.fixture
async def tapped(tmp_path: Path) -> AsyncIterator[Tapped]:
    home = Home(tmp_path)
    async with home.gateway_here() as gateway, line_to(gateway.url) as (line, url):
        yield Tapped(home, gateway, line, url, await pair(home, "laptop"), tmp_path)


async def test_a_line_that_nobody_touches_is_a_line(tapped: Tapped) -> None:
    assert (await tapped.outcome())[0] == "connected"


# -- downgrades -----------------------------------------------------------------------------------


def without(*fields: str) -> Callable[[Json], object]:
    return lambda message: [message.pop(field, None) for field in fields]


def listing(*capabilities: str) -> Callable[[Json], object]:
    return lambda message: message.update(capabilities=list(capabilities))


@pytest.mark.parametrize(
    ("from_node", "from_gateway"),
    [
        (altered("hello", without("e2e", "ecdh_pub")), None),
        (altered("hello", lambda message: message.update(e2e=False)), None),
        (altered("hello", without("capabilities")), None),
        (altered("hello", listing("exec_chunk")), None),
        (None, altered("hello_ack", without("ecdh_pub", "salt"))),
        (None, altered("hello_ack", without("salt"))),
        (None, altered("hello_ack", listing())),
        (None, altered("hello_ack", listing("exec_chunk"))),
        (altered("hello", without("e2e", "ecdh_pub")), altered("hello_ack", listing("stream/1"))),
    ],
)
async def test_downgrade_from_encrypted_to_plain_and_from_stream(
    tapped: Tapped, from_node: Change | None, from_gateway: Change | None
) -> None:
    tapped.line.from_node = from_node or tapped.line.from_node
    tapped.line.from_gateway = from_gateway or tapped.line.from_gateway
    async with our_node(tapped.url, "laptop", tapped.token, tapped.folder) as node:
        await node.state("waiting")
        # It has said nothing by which it could be taken for what it is.
        assert not any(tapped.token.encode() in frame.data for frame in tapped.line.node_said)
        await until(lambda: tapped.gateway.registry.get("laptop") is None)


async def test_downgrade_of_an_older_nodes_session_in_its_middle(tapped: Tapped) -> None:
    """Without `stream/1`: a message that is not sealed ends an encrypted session."""
    async with connect(tapped.gateway.url) as node:
        await node.log_in("laptop", tapped.token, encrypted=True)
        await node.send_plain({"type": "ping"})
        assert await node.closed() == 4003


# -- what the two openings hold -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "alter"),
    [
        ("hello", lambda message: message["capabilities"].append("root")),
        ("hello", lambda message: message["capabilities"].remove("pty")),
        ("hello", lambda message: message["capabilities"].reverse()),
        ("hello", lambda message: message.update(platform="windows")),
        ("hello", lambda message: message.update(node_version="0.0.1")),
        ("hello", lambda message: message.update(nothing=1)),
        ("hello_ack", lambda message: message["capabilities"].append("root")),
        ("hello_ack", lambda message: message.update(server_time="2000-01-01T00:00:00.000Z")),
        ("hello_ack", lambda message: message.update(nothing=1)),
    ],
)
async def test_a_capability_changed_on_the_way(
    tapped: Tapped, message: str, alter: Callable[[Json], object]
) -> None:
    """What is not part of the proofs is part of the keys: no record opens, so that nothing is run."""
    side = "from_node" if message == "hello" else "from_gateway"
    setattr(tapped.line, side, altered(message, alter))
    async with our_node(tapped.url, "laptop", tapped.token, tapped.folder) as node:
        await until(lambda: tapped.gateway.registry.get("laptop") is not None)
        run = start_exec(tapped.home, "laptop", f"touch {tapped.folder}/done")
        state = await node.state("waiting")
        result = (await asyncio.gather(run, return_exceptions=True))[0]
    assert "record does not open" in state[1]
    assert type(result).__name__ == "NodeDisconnected"
    assert not (tapped.folder / "done").exists()


async def test_a_capability_changed_on_the_way_for_either_side(tapped: Tapped) -> None:
    """Each end is made to believe in another kind of session: the first message ends both."""
    tapped.line.from_node = altered("hello", listing("exec_chunk"))
    tapped.line.from_gateway = altered("hello_ack", listing("stream/1"))
    async with our_node(tapped.url, "laptop", tapped.token, tapped.folder) as node:
        await until(lambda: tapped.gateway.registry.get("laptop") is not None)
        run = start_exec(tapped.home, "laptop", f"touch {tapped.folder}/done")
        assert await node.state("waiting") == ("waiting", "a text message in a stream session")
        await asyncio.gather(run, return_exceptions=True)
    assert not (tapped.folder / "done").exists()


@pytest.mark.parametrize(
    "alter",
    [
        without("proof"),
        lambda message: message.update(proof=None),
        lambda message: message.update(proof=""),
        lambda message: message.update(proof="A" * 43),
        lambda message: message.update(proof=message["proof"][:-3]),
    ],
)
async def test_a_proof_left_out_of_auth_ok(tapped: Tapped, alter: Callable[[Json], object]) -> None:
    tapped.line.from_gateway = altered("auth_ok", alter)
    state, reason = await tapped.outcome()
    assert state == "waiting"
    assert reason in {"the gateway could not prove that it knows this pairing", "malformed base64url"}


async def test_a_proof_left_out_of_auth(tapped: Tapped) -> None:
    def echoed(message: Json) -> None:
        message.update(proof="", token=tapped.token)

    tapped.line.from_node = altered("auth", echoed)
    state, reason = await tapped.outcome()
    assert (state, "does not accept" in reason) == ("waiting", True), reason


# -- records --------------------------------------------------------------------------------------


def every_other_kept() -> Change:
    """Holds a record back and lets the next one overtake it."""
    held: list[Frame] = []

    def change(frame: Frame) -> Iterable[Frame]:
        if not frame.binary:
            return [frame]
        held.append(frame)
        return [held.pop(), held.pop()] if len(held) > 1 else []

    return change


def damaged(frame: Frame) -> Iterable[Frame]:
    """Turns one bit of every record."""
    return [Frame(frame.data[:-1] + bytes([frame.data[-1] ^ 1]), binary=True) if frame.binary else frame]


def twice(frame: Frame) -> Iterable[Frame]:
    return [frame, frame] if frame.binary else [frame]


def shortened(frame: Frame) -> Iterable[Frame]:
    return [Frame(frame.data[:-1], binary=True) if frame.binary else frame]


def as_text(frame: Frame) -> Iterable[Frame]:
    return [Frame(b'{"type":"bye"}', binary=False) if frame.binary else frame]


def dropping_the_first() -> Change:
    left = [True]

    def change(frame: Frame) -> Iterable[Frame]:
        return [] if frame.binary and left and left.pop() else [frame]

    return change


CHANGES: dict[str, Callable[[], Change]] = {
    "repeated": lambda: twice,
    "reordered": every_other_kept,
    "dropped": dropping_the_first,
    "damaged": lambda: damaged,
    "shortened": lambda: shortened,
    "replaced": lambda: as_text,
}


async def connected(tapped: Tapped, node: OurNode) -> None:
    await node.state("connected")
    await until(lambda: tapped.gateway.registry.get("laptop") is not None)


@pytest.mark.parametrize("change", CHANGES)
async def test_replay_reordering_and_reflection_of_records(tapped: Tapped, change: str) -> None:
    """Towards the gateway: what a command prints is exactly what it has printed, or nothing is known."""
    async with our_node(tapped.url, "laptop", tapped.token, tapped.folder) as node:
        await connected(tapped, node)
        tapped.line.from_node = CHANGES[change]()
        run = start_exec(tapped.home, "laptop", "printf one; printf two >&2")
        result = (await asyncio.gather(run, return_exceptions=True))[0]
        assert type(result).__name__ == "NodeDisconnected"
        assert await asyncio.wait_for(tapped.line.gateway_closed, PATIENCE) == 4003


@pytest.mark.parametrize("change", CHANGES)
async def test_replay_reordering_and_reflection_of_records_towards_the_node(
    tapped: Tapped, change: str
) -> None:
    """A command that was sent once runs once at most, and one that was changed does not."""
    done = tapped.folder / "done"
    async with our_node(tapped.url, "laptop", tapped.token, tapped.folder) as node:
        await connected(tapped, node)
        tapped.line.from_gateway = CHANGES[change]()
        runs = [start_exec(tapped.home, "laptop", f"echo {n} >> {done}; sleep 60") for n in range(2)]
        await node.state("waiting")
        await asyncio.gather(*runs, return_exceptions=True)
    lines = done.read_text().split() if done.exists() else []
    assert len(lines) == len(set(lines)) <= (1 if change == "repeated" else 0)


async def test_reflection_of_records(tapped: Tapped) -> None:
    """What an end has said itself opens nothing when it comes back to it."""
    async with our_node(tapped.url, "laptop", tapped.token, tapped.folder) as node:
        await connected(tapped, node)
        result = await start_exec(tapped.home, "laptop", "echo once")
        assert result.stdout == "once\n"
        (mine, *_) = [frame for frame in tapped.line.gateway_said if frame.binary]
        await tapped.line.say_to_gateway(mine)
        assert await asyncio.wait_for(tapped.line.gateway_closed, PATIENCE) == 4003


async def test_replay_of_a_whole_session(tapped: Tapped) -> None:
    """Everything that a node has ever said logs nobody in again."""
    async with our_node(tapped.url, "laptop", tapped.token, tapped.folder) as node:
        await connected(tapped, node)
    said = list(tapped.line.node_said)
    async with connect(tapped.gateway.url) as thief:
        for frame in said:
            await (thief.send_binary(frame.data) if frame.binary else thief.send_text(frame.data.decode()))
        assert (await thief.receive_plain())["type"] == "hello_ack"
        assert (await thief.receive_plain())["reason"] == "invalid_token"
    assert json.loads(said[1].data)["proof"]
