"""What was asked for before its giver's end and comes to be done after it, and who has asked for it."""

import asyncio
from pathlib import Path

import pytest

from hermes_nodes.administration import OperatorRequest
from hermes_nodes.errors import NotAllowed
from hermes_nodes.gateway.operators import Actor
from tests.harness import Home
from tests.security.place import Place


@pytest.mark.parametrize("verbs", [("operate",), ("list", "operate")])
async def test_a_grant_that_outlives_the_removal_of_its_giver(
    tmp_path: Path, verbs: tuple[str, ...]
) -> None:
    """A new operator that waits for the store behind the removal of the one who adds it is none."""
    home = Home(tmp_path)
    async with home.gateway_here() as gateway:
        await asyncio.to_thread(home.client.add_operator, "boss", allow=["list", "operate"])
        assert gateway._parts is not None
        operators = gateway._parts[0]._operators
        (boss,) = operators.all()
        removal = asyncio.create_task(operators.remove("boss", Actor("local:root")))
        grant = asyncio.create_task(
            operators.add(OperatorRequest("heir", allow=verbs), Actor("operator:boss", None, boss.id))
        )
        _, refused = await asyncio.gather(removal, grant, return_exceptions=True)
        assert isinstance(refused, NotAllowed)
        assert operators.all() == []


def test_an_act_over_the_network_without_its_address_in_the_trail(place: Place) -> None:
    """Every row of an operator says where it came from."""
    name, node = place.fresh("operator"), place.fresh("node")
    boss = place.operator("list", "pair", "revoke", "rotate", "label", "operate", name=name)
    boss.pair(node)
    boss.label(node, {"a": "b"})
    boss.rotate(node)
    boss.pair(node, force=True)
    boss.revoke(node)
    boss.add_operator(f"{name}-heir", allow=["list"])
    boss.remove_operator(f"{name}-heir")
    rows = [row for row in place.home.trail() if row["actor"] == f"operator:{name}"]
    acts = [(row["action"], row["remote_addr"]) for row in rows]
    done = ["pair", "label", "rotate", "revoke", "pair", "revoke", "operator", "operator"]
    assert acts == [(action, "127.0.0.1") for action in done]


def test_a_caller_declaring_its_own_scope_by_anothers_id(place: Place) -> None:
    """A token names the operator that it is checked against; naming another one is no proof."""
    boss, mine = place.token("operate"), place.token("list")
    theirs, _, _ = boss.partition(".")
    for token in (
        f"{theirs}.{mine.partition('.')[2]}",
        f"{theirs}.",
        theirs,
        boss.upper(),
        boss + "x",
        boss[:-1],
    ):
        assert place.ask("GET", "/v1/operators", token).status == 401, token
    assert place.ask("GET", "/v1/operators", boss).status == 200
