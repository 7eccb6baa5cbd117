"""An outsider can't find out which names are paired: not by what is answered, nor by how long it takes."""

import time
from collections.abc import Callable
from contextlib import suppress
from random import Random
from statistics import median

import pytest

from hermes_nodes.clock import timestamp
from hermes_nodes.gateway.pairings import Candidate, Pairings
from hermes_nodes.protocol import crypto
from hermes_nodes.protocol.handshake import Credentials, GatewayHandshake, NodeHandshake, Refused
from hermes_nodes.records import Pairing, Secret
from tests.harness import scripted_node
from tests.protocol.support import HandmadeNode, text
from tests.security.place import Place

STATES = ("unknown", "wrong proof", "revoked", "expired", "under rotation")
ROUNDS = 500
#: One HKDF more or less is about a quarter of what a refused proof costs; noise stays far below.
MOST_APART = 0.10


# -- by reply --------------------------------------------------------------------------------------


async def replies(place: Place, name: str, address: str, *, encrypted: bool) -> list[object]:
    """Everything that a gateway says to somebody with a wrong token, without what is random."""
    async with scripted_node(place.gateway.url, headers={"X-Forwarded-For": address}) as node:
        peer = HandmadeNode(token="hnt_" + "z" * 43)
        hello = peer.hello if encrypted else peer.plain_hello
        await node.send_frame(hello(node_name=name, capabilities=["stream/1"]))
        ack = await node.receive_json()
        await node.send_frame(peer.auth(text(ack), node_name=name))
        refusal = await node.receive_json()
        shape = {key: len(value) if isinstance(value, str) else value for key, value in ack.items()}
        return [shape, refusal, await node.closed()]


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
async def test_names_told_apart_by_an_outsider_by_reply(place: Place, encrypted: bool) -> None:
    names = {state: place.fresh("told") for state in STATES}
    for state, name in names.items():
        if state != "unknown":
            place.local.pair(name, expires_in=0.001 if state == "expired" else None)
    place.local.revoke(names["revoked"])
    place.local.rotate(names["under rotation"])
    told = [
        await replies(place, name, f"198.51.100.{number + 100 * encrypted + 1}", encrypted=encrypted)
        for number, name in enumerate(names.values())
    ]
    assert told[0][1:] == [{"type": "auth_err", "reason": "invalid_token", "code": 4001}, 4001]
    assert told == [told[0]] * len(STATES)


# -- by clock --------------------------------------------------------------------------------------


def a_gateways_view() -> Pairings:
    """The pairings as the gateway holds them, one in each state; nothing of it is ever stored."""
    view = Pairings(None, None, None, lambda _: None)  # type: ignore[arg-type]
    now = timestamp()
    for number, state in enumerate(STATES):
        if state in ("unknown", "revoked"):  # whose token is gone, and of which only the store knows
            continue
        pairing = Pairing(f"id-{number}", state, {}, now, now if state == "expired" else None, None)
        count = 2 if state == "under rotation" else 1
        view._live[state] = pairing
        view._secrets[pairing.id] = [
            Secret("token", f"hnt_{one}{number}" + "t" * 41, one, None) for one in range(count)
        ]
    return view


def our_node(name: str) -> NodeHandshake:
    token = "hnt_" + "z" * 43
    return NodeHandshake(
        name=name, token=token, node_version="1", platform="linux", arch="arm64", capabilities=[]
    )


def refuse(view: Pairings, name: str, *, encrypted: bool) -> tuple[int, int]:
    """The nanoseconds that a gateway takes to answer a hello, and to refuse what follows it."""
    node = our_node(name)
    plain = HandmadeNode()
    hello = node.hello() if encrypted else plain.plain_hello(node_name=name)
    gateway = GatewayHandshake(protected=True, lookup=Candidate(view).credentials)
    before = time.perf_counter_ns()
    ack = gateway.receive_hello(hello)
    first = time.perf_counter_ns() - before
    auth = node.receive_ack(ack) if encrypted else plain.auth(ack, node_name=name)
    before = time.perf_counter_ns()
    with suppress(Refused):
        gateway.receive_auth(auth)
        raise AssertionError(f"{name} got in")
    return first, time.perf_counter_ns() - before


def apart(view: Pairings, *, encrypted: bool) -> float:
    """By how much the slowest state differs from the fastest, as a part of the fastest.

    The states take turns in an order that is new in each round, so that a machine that is busy for a
    while slows all of them down; what is compared is the median, which no single stall moves.
    """
    order, random = list(STATES), Random(1)
    taken: dict[str, list[tuple[int, int]]] = {state: [] for state in STATES}
    for _ in range(ROUNDS):
        random.shuffle(order)
        for state in order:
            taken[state].append(refuse(view, state, encrypted=encrypted))
    steps = [[median(one[step] for one in taken[state]) for state in STATES] for step in (0, 1)]
    return max(max(step) / min(step) - 1 for step in steps)


def smallest(measure: Callable[[], float], tries: int = 5) -> float:
    """A difference that is there is there each time; one of a noisy moment is not."""
    least = measure()
    for _ in range(tries - 1):
        if least < MOST_APART:
            break
        least = min(least, measure())
    return least


@pytest.mark.parametrize("encrypted", [True, False], ids=["encrypted", "plain"])
def test_names_told_apart_by_an_outsider_by_clock(encrypted: bool) -> None:
    """Thousands of refused handshakes, without a network, whose noise would hide a difference."""
    view = a_gateways_view()
    assert smallest(lambda: apart(view, encrypted=encrypted)) < MOST_APART


def one_try_less(found: Credentials, *, is_known: bool) -> Credentials:
    return found if is_known else found._replace(tokens=found.tokens[:1])


def one_derivation_more(found: Credentials, *, is_known: bool) -> Credentials:
    if is_known:
        crypto.handshake_key(b"s" * 32, salt=b"s" * 32, token="t")
    return found


@pytest.mark.parametrize(
    ("fault", "encrypted"), [(one_try_less, True), (one_derivation_more, False)], ids=["less", "more"]
)
def test_the_clock_shows_one_derivation_that_only_some_names_cost(
    monkeypatch: pytest.MonkeyPatch, fault: Callable[..., Credentials], encrypted: bool
) -> None:
    """A gateway with that fault, so that the test above is known to be one."""
    real = Candidate.credentials

    def faulty(self: Candidate, name: str) -> Credentials:
        return fault(real(self, name), is_known=self._claimed is not None)

    monkeypatch.setattr(Candidate, "credentials", faulty)
    assert smallest(lambda: apart(a_gateways_view(), encrypted=encrypted)) > MOST_APART
