"""An outsider learns no name: not from what it is told, not from how long that takes."""

import os
from collections.abc import Callable

import pytest

from hermes_nodes.gateway import Gateway
from hermes_nodes.gateway.pairings import Pairings
from hermes_nodes.protocol import crypto
from hermes_nodes.protocol.handshake import GatewayHandshake
from hermes_nodes.records import Pairing, Secret
from tests.conformance.node import b64url, connect
from tests.harness import Home
from tests.security.clock import KINDS, Differences, measure, prepare

#: Five handshakes each: thousands in all.
ROUNDS = 600
#: What seems to be a difference has to show as often as this; what is one shows always.
TRIES = 4


def told_apart(gateway: Gateway) -> Differences | None:
    """The differences by which names are told apart, if they are."""
    found = None
    for _ in range(TRIES):
        found = measure(gateway, ROUNDS)
        if not found.tells:
            return None
    return found


async def answers(url: str, name: str, *, encrypted: bool, stream: bool) -> list[object]:
    """All that a peer with a wrong proof gets to see, but for what is random in it."""
    varying = {"session_id", "server_time", "ecdh_pub", "salt", "ts"}
    async with connect(url) as node:
        ack = await node.greet(name, encrypted=encrypted, capabilities=["stream/1"] if stream else [])
        proof = {"proof": b64url(os.urandom(32))} if encrypted else {"token": "hnt_" + "x" * 43}
        await node.auth(name, **proof)
        reply = await node.receive_plain()
        code = await node.closed()
    seen: list[object] = [
        [len(ack[key]) for key in ("ecdh_pub", "salt") if key in ack],
        *(sorted(message) for message in (ack, reply)),
        *({key: value for key, value in one.items() if key not in varying} for one in (ack, reply)),
    ]
    return [*seen, code]


@pytest.mark.parametrize(("encrypted", "stream"), [(True, True), (True, False), (False, False)])
async def test_names_told_apart_by_an_outsider_by_reply(
    home: Home, gateway: Gateway, encrypted: bool, stream: bool
) -> None:
    await prepare(home)
    seen = [await answers(gateway.url, name, encrypted=encrypted, stream=stream) for name in KINDS]
    assert seen == [seen[0]] * len(KINDS)
    reasons = {row["node"]: row["error"] for row in home.trail(action="auth")}
    assert set(reasons) == set(KINDS)


async def test_names_told_apart_by_an_outsider_by_clock(home: Home, gateway: Gateway) -> None:
    await prepare(home)
    assert told_apart(gateway) is None


def no_key_for_the_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuses a name that is not paired without deriving anything."""
    accept = GatewayHandshake._accept_proof

    def shortcut(self: GatewayHandshake, hello: object, name: str, proof: bytes) -> object:
        if name == "unknown":
            raise self.invalid_token("wrong proof")
        return accept(self, hello, name, proof)  # type: ignore[arg-type]

    monkeypatch.setattr(GatewayHandshake, "_accept_proof", shortcut)


def one_key_more_under_rotation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries as many tokens as there are."""
    monkeypatch.setattr(Pairings, "nobodys", lambda self, count: [self._nobody] if count > 1 else [])


def no_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has nothing that an unknown name could be tried with."""

    def secrets(self: Pairings, pairing: Pairing | None) -> list[Secret]:
        known = [] if pairing is None else self._secrets.get(pairing.id, [])
        return [*known, self._nobody, self._nobody][: 2 if pairing else 1]

    monkeypatch.setattr(Pairings, "secrets", secrets)
    monkeypatch.setattr(Pairings, "nobodys", lambda *_: [])


def a_search_for_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks in one more place for names that are known."""
    admitted = Pairings.admitted

    def slower(self: Pairings, name: str) -> Pairing | None:
        found = admitted(self, name)
        if found is not None:
            crypto.handshake_key(b"x" * 32, salt=b"", token=name)
        return found

    monkeypatch.setattr(Pairings, "admitted", slower)


@pytest.mark.parametrize(
    "plant", [no_key_for_the_unknown, one_key_more_under_rotation, no_nobody, a_search_for_the_name]
)
async def test_a_clock_that_tells_names_apart_is_noticed(
    home: Home, gateway: Gateway, monkeypatch: pytest.MonkeyPatch, plant: Callable[..., None]
) -> None:
    await prepare(home)
    plant(monkeypatch)
    assert told_apart(gateway) is not None
