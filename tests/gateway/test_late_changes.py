"""Changes that wait for the store's thread: what they find when their turn comes is what counts."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from hermes_nodes.client import Client
from hermes_nodes.clock import timestamp
from hermes_nodes.errors import HermesNodesError, NotAllowed, Unavailable, UnknownNode
from hermes_nodes.gateway import Gateway
from hermes_nodes.gateway.calls import Calls
from hermes_nodes.operators import VERBS
from hermes_nodes.tokens import TokenStore
from tests.gateway.support import pair
from tests.harness import Home, until
from tests.network import LOOPBACK

#: Every change that an operator may ask for.
CHANGES: dict[str, Callable[[Client], object]] = {
    "pair": lambda client: client.pair("ghost"),
    "pair --force": lambda client: client.pair("laptop", force=True),
    "label": lambda client: client.label("laptop", {"a": "b"}),
    "rotate": lambda client: client.rotate("laptop", grace=0),
    "revoke": lambda client: client.revoke("laptop"),
    "operator add": lambda client: client.add_operator("heir"),
    "operator remove": lambda client: client.remove_operator("bystander"),
}


@pytest.fixture
async def listening(home: Home) -> AsyncIterator[Gateway]:
    async with home.gateway_here(**LOOPBACK) as gateway:
        yield gateway


def parts(gateway: Gateway) -> Calls:
    assert gateway._calls is not None
    return gateway._calls


@asynccontextmanager
async def busy_store(gateway: Gateway) -> AsyncIterator[Callable[[int], Any]]:
    """The store's thread has something else to do until the block ends.

    Gives what waits until so many pieces of work are in its queue.
    """
    thread = parts(gateway)._operators._store
    begun, go_on = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go_on.wait()

    held = asyncio.create_task(thread.run(lambda _: work()))
    await asyncio.to_thread(begun.wait)
    try:
        yield lambda count: until(lambda: thread._thread._work_queue.qsize() >= count)
    finally:
        go_on.set()
        await held


async def operator(home: Home, gateway: Gateway, *verbs: str, **more: Any) -> Client:
    made = await asyncio.to_thread(home.client.add_operator, "ci", allow=verbs, **more)
    return Client(str(gateway.control_url), token=str(made["token"]))


def asked(act: Callable[[], object]) -> "asyncio.Task[object]":
    """A request under way."""
    return asyncio.create_task(asyncio.to_thread(act))


async def state(home: Home) -> tuple[object, ...]:
    """What an operator could have changed."""
    nodes = [
        (node["name"], node["pairing_id"], node["labels"], node["revoked_at"])
        for node in await asyncio.to_thread(home.client.nodes, everything=True)
    ]
    known = [one["name"] for one in await asyncio.to_thread(home.client.operators) if one["name"] != "ci"]
    done = [row["action"] for row in home.trail() if row["actor"] == "operator:ci"]
    return nodes, known, done


async def refused(task: "asyncio.Task[object]") -> HermesNodesError:
    with pytest.raises(HermesNodesError) as failure:
        await task
    return failure.value


@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_that_waits_behind_its_operators_removal_is_none(
    home: Home, listening: Gateway, change: str
) -> None:
    await pair(home, "laptop")
    await asyncio.to_thread(home.client.add_operator, "bystander")
    client = await operator(home, listening, *VERBS)
    before = await state(home)
    async with busy_store(listening) as waiting:
        removal = asked(lambda: home.client.remove_operator("ci"))
        await waiting(1)
        late = asked(lambda: CHANGES[change](client))
        await waiting(2)
    await removal
    failure = await refused(late)
    assert (failure.exit_status, failure.code) == (77, "denied")
    assert "removed or has expired" in failure.message
    assert await state(home) == before


@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_whose_operator_expires_while_it_waits_is_none(
    home: Home, listening: Gateway, change: str
) -> None:
    await pair(home, "laptop")
    await asyncio.to_thread(home.client.add_operator, "bystander", expires_in=1.0)
    client = await operator(home, listening, *VERBS, expires_in=1.0)
    before = await state(home)
    async with busy_store(listening) as waiting:
        late = asked(lambda: CHANGES[change](client))
        await waiting(1)
        (ci,) = [one for one in parts(listening)._operators.all() if one.name == "ci"]
        await until(lambda: not ci.is_valid(timestamp()))
    assert (await refused(late)).exit_status == 77
    assert await state(home) == before


async def test_a_removal_that_could_not_be_saved_holds_for_what_waits_as_well(
    home: Home, listening: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await operator(home, listening, "pair")
    before = await state(home)

    def remove(*_: object) -> None:
        raise Unavailable("the disk is full")

    monkeypatch.setattr("hermes_nodes.operator_table.OperatorTable.remove", remove)
    async with busy_store(listening) as waiting:
        late = asked(lambda: client.pair("ghost"))
        await waiting(1)
        (ci,) = parts(listening)._operators.all()
        parts(listening)._operators._forget(ci.id)
    assert isinstance(await refused(late), NotAllowed)
    assert await state(home) == before


@pytest.mark.parametrize("act", ["rotate", "revoke"])
async def test_a_node_that_leaves_the_scope_while_an_act_on_it_waits_is_left_alone(
    home: Home, listening: Gateway, act: str
) -> None:
    await pair(home, "laptop", labels={"team": "a"})
    client = await operator(home, listening, act, nodes="label:team=a")
    async with busy_store(listening) as waiting:
        labelling = asked(lambda: home.client.label("laptop", {"team": "b"}))
        await waiting(1)
        late = asked(lambda: getattr(client, act)("laptop"))
        # What was seen of nodes is saved before a revocation.
        await waiting(2)
    await labelling
    assert isinstance(await refused(late), UnknownNode)
    assert [row["action"] for row in home.trail() if row["actor"] == "operator:ci"] == []


# -- revoking again ------------------------------------------------------------------------------


@pytest.mark.parametrize("nodes", ["laptop", "lap*", "label:a=b", "all"])
async def test_revoking_again_is_no_failure_whatever_the_scope_is_written_like(
    home: Home, listening: Gateway, nodes: str
) -> None:
    await pair(home, "laptop", labels={"a": "b"})
    client = await operator(home, listening, "revoke", nodes=nodes)
    first = await asyncio.to_thread(client.revoke, "laptop")
    assert await asyncio.to_thread(client.revoke, "laptop") == first


async def test_a_revoked_name_outside_of_the_scope_is_as_unknown_as_one_that_never_was(
    home: Home, listening: Gateway
) -> None:
    await pair(home, "laptop")
    await pair(home, "other")
    client = await operator(home, listening, "revoke", nodes="laptop")
    await asyncio.to_thread(home.client.revoke, "other")
    told = []
    for name in ("other", "never"):
        failure = await refused(asked(lambda name=name: client.revoke(name)))  # type: ignore[misc]
        assert failure.exit_status == 66
        told.append((failure.message.replace(name, "NAME"), failure.hint))
    assert told[0] == told[1]


async def test_of_two_that_are_revoked_the_answer_is_about_the_one_in_the_scope(
    home: Home, listening: Gateway
) -> None:
    await pair(home, "laptop")
    client = await operator(home, listening, "revoke", nodes="laptop")
    mine = await asyncio.to_thread(client.revoke, "laptop")
    await pair(home, "laptop")
    assert isinstance(await refused(asked(lambda: client.revoke("laptop"))), UnknownNode)
    await asyncio.to_thread(home.client.revoke, "laptop")
    assert await asyncio.to_thread(client.revoke, "laptop") == mine


async def test_a_revocation_that_can_not_be_saved_shuts_out_no_node_beyond_the_scope(
    home: Home, listening: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pair(home, "laptop")
    await pair(home, "other")
    client = await operator(home, listening, "revoke", nodes="laptop")

    def revoke(*_: object, **__: object) -> None:
        raise Unavailable("the disk is full")

    monkeypatch.setattr(TokenStore, "revoke", revoke)
    for name in ("laptop", "other"):
        assert isinstance(await refused(asked(lambda name=name: client.revoke(name))), Unavailable)  # type: ignore[misc]
    assert [node["name"] for node in await asyncio.to_thread(home.client.nodes)] == ["other"]
