"""An operator stays what it was made, on the nodes that it was made for."""

import asyncio
import json
import threading
from collections.abc import Callable

import pytest

from hermes_nodes.client import Client
from hermes_nodes.errors import HermesNodesError, NotAllowed, UnknownNode, UsageError
from tests.harness import Home
from tests.security.place import Place


def names(client: Client, *, everything: bool = False) -> list[object]:
    return [view["name"] for view in client.nodes(everything=everything)]


def test_a_reused_name_inheriting_access(place: Place) -> None:
    name = place.fresh("node")
    old_token = place.paired(name)
    token = place.token("list", "exec", "revoke", "rotate", nodes=name)
    client = place.client(token)
    assert names(client) == [name]
    place.local.revoke(name)
    anew = place.local.pair(name)
    assert anew["token"] != old_token
    assert anew["labels"] == {}
    assert names(client) == []
    # Only the tombstone is in its scope.
    (tomb,) = client.nodes(everything=True)
    assert (tomb["state"], tomb["pairing_id"] == anew["pairing_id"]) == ("revoked", False)
    for act in (
        lambda: client.exec(name, "true"),
        lambda: client.revoke(name),
        lambda: client.rotate(name),
    ):
        with pytest.raises(UnknownNode):
            act()
    (view,) = place.local.nodes(name)
    assert view["pairing_id"] == anew["pairing_id"]


def test_a_reused_operators_name_inheriting_access(place: Place) -> None:
    name = place.fresh("operator")
    old = place.operator("list", "exec", name=name)
    place.local.remove_operator(name)
    new = place.operator("list", name=name)
    with pytest.raises(HermesNodesError) as refused:
        old.nodes()
    assert refused.value.code == "unauthenticated"
    with pytest.raises(NotAllowed):
        new.exec("web", "true")


@pytest.mark.parametrize("act", ["revoke", "rotate"])
async def test_a_name_paired_anew_between_the_check_and_the_act_is_left_alone(
    tmp_path_factory: pytest.TempPathFactory, act: str
) -> None:
    """The store is kept busy with pairing the name anew while the operator is checked and its act waits."""
    home = Home(tmp_path_factory.mktemp("anew"))
    async with home.gateway_here(HERMES_NODES_CONTROL_LISTEN="127.0.0.1:0") as gateway:
        await asyncio.to_thread(home.client.pair, "laptop")
        added = await asyncio.to_thread(
            home.client.add_operator, "deputy", allow=["list", act], nodes="laptop"
        )
        deputy = Client(gateway.control_url, token=str(added["token"]), environ={})
        busy, go_on = threading.Event(), threading.Event()
        assert gateway._parts is not None
        pairings = gateway._parts[0]._pairings

        def wait() -> None:
            busy.set()
            go_on.wait()

        waiting = asyncio.create_task(pairings.in_store(wait))
        await asyncio.to_thread(busy.wait)
        queue = pairings._store._thread._work_queue
        anew = asyncio.create_task(asyncio.to_thread(home.client.pair, "laptop", force=True))
        await _queued(queue.qsize, 1)
        acting = asyncio.create_task(asyncio.to_thread(getattr(deputy, act), "laptop"))
        await _queued(queue.qsize, 2)
        go_on.set()
        with pytest.raises(UnknownNode):
            await acting
        await waiting
        token = (await anew)["token"]
        (view,) = await asyncio.to_thread(home.client.nodes, "laptop")
        live = pairings.get("laptop")
        assert live is not None
        assert (view["state"], view["pairing_id"]) == ("never_seen", live.id)
        assert [one.value for one in pairings.secrets(live)] == [token]


async def _queued(size: Callable[[], int], count: int) -> None:
    async with asyncio.timeout(20):
        while size() < count:  # noqa: ASYNC110 - a queue sets no Event
            await asyncio.sleep(0.001)


def test_a_caller_declaring_its_own_scope(place: Place) -> None:
    token = place.token("list", nodes="web")
    claims = {
        "X-Operator": "local:root",
        "X-Actor": "local:root",
        "X-Scopes": "operate,exec",
        "X-Forwarded-User": "root",
        "X-Forwarded-For": "127.0.0.1",
    }
    body = json.dumps({"command": "id", "verbs": ["exec"], "actor": "local:root"}).encode()
    for path in ("/v1/nodes/web/exec", "/v1/nodes/web/exec?verb=list&scope=all&actor=local:root"):
        answer = place.ask("POST", path, token, b'{"command": "id"}', headers=claims)
        assert json.loads(answer.body)["result"]["status"] == "denied"
        assert place.ask("POST", path, token, body, headers=claims).status == 400
    assert place.ask("GET", "/v1/operators", token, headers=claims).status == 403
    assert place.ask("POST", "/v1/key/rotate", place.token("operate"), headers=claims).status == 403
    other = place.fresh("node")
    place.paired(other)
    told = place.ask("GET", "/v1/nodes?scope=all&target=all&operator=local", token, headers=claims)
    assert [view["name"] for view in json.loads(told.body)["nodes"]] == ["web"]


def test_a_callers_own_claims_are_not_in_the_trail(place: Place) -> None:
    name = place.fresh("operator")
    token = place.token("exec", name=name, nodes="web")
    place.ask(
        "POST", "/v1/nodes/web/exec", token, b'{"command": "true"}', headers={"X-Actor": "local:root"}
    )
    (row,) = [row for row in place.home.trail(action="exec") if row["actor"] == f"operator:{name}"]
    assert row["status"] == "ok"


def test_a_grant_that_widens_itself(place: Place) -> None:
    manager = place.operator("list", "operate")
    with pytest.raises(NotAllowed, match="can't hand on exec"):
        manager.add_operator(place.fresh("operator"), allow=["exec"])
    for verb in ("pair", "label", "operate"):
        with pytest.raises(UsageError, match="only be allowed on all nodes"):
            place.local.add_operator(place.fresh("operator"), allow=[verb], nodes="web")
    brief = place.client(place.token("list", "operate", expires_in=3600))
    with pytest.raises(NotAllowed, match="may not last longer"):
        brief.add_operator(place.fresh("operator"), expires_in=7200)
    made = brief.add_operator(place.fresh("operator"))
    assert made["expires_at"] is not None, "what it adds ends with it"
    stronger = place.fresh("operator")
    place.operator("exec", name=stronger)
    with pytest.raises(NotAllowed):
        manager.remove_operator(stronger)
    with pytest.raises(HermesNodesError):
        manager.add_operator(stronger)


def test_replacing_a_pairing_takes_the_right_to_revoke(place: Place) -> None:
    pairer = place.operator("pair")
    name = place.fresh("node")
    pairer.pair(name)
    with pytest.raises(NotAllowed, match="revoke"):
        pairer.pair(name, force=True)
    with pytest.raises(NotAllowed, match="revoke"):
        pairer.pair(place.fresh("node"), force=True)


def test_what_is_outside_of_a_scope_looks_as_if_it_were_not_there(place: Place) -> None:
    hidden, tomb, missing = (place.fresh("hidden") for _ in range(3))
    place.paired(hidden)
    place.paired(tomb)
    place.local.revoke(tomb)
    client = place.operator("list", "exec", "read", "revoke", "rotate", "audit", "jobs", nodes="web")
    acts: list[Callable[[str], object]] = [
        lambda name: client.exec(name, "true"),
        client.nodes,
        client.revoke,
        client.rotate,
        lambda name: client.read(name, "/etc/hostname", lambda _: None),
    ]
    for act in acts:
        told = set()
        for name in (hidden, tomb, missing):
            with pytest.raises(UnknownNode) as unknown:
                act(name)
            told.add(str(unknown.value.to_wire()).replace(name, "NAME"))
        assert len(told) == 1
    assert names(client, everything=True) == ["web"]
    assert client.status()["nodes_paired"] == 1
    assert {row.get("node") for row in client.audit_rows(1000)} <= {"web"}
