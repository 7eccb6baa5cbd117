"""How long the gateway takes to refuse a name, by what it knows of it: `python -m tests.security.clock`.

No network: an outsider's sees the same differences through more noise. Time is the processor's, kinds are
measured in turn, and what is compared are medians of differences within one round.
"""

import argparse
import asyncio
import gc
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from hermes_nodes.errors import HermesNodesError
from hermes_nodes.gateway import Gateway
from hermes_nodes.gateway.pairings import Candidate
from hermes_nodes.protocol import crypto
from hermes_nodes.protocol.codec import Frame
from hermes_nodes.protocol.handshake import GatewayHandshake, Refused
from hermes_nodes.protocol.messages import STREAM, Auth, Hello, encode
from tests.harness import Home

#: What a name may be to the gateway; what is shown for it is never right.
KINDS = ("unknown", "known", "revoked", "expired", "rotated")


class Taken(NamedTuple):
    """Nanoseconds that one refusal took, at each of its two steps."""

    hello: int
    auth: int


async def prepare(home: Home) -> None:
    """A name of each kind, called so."""
    for name in ("known", "revoked", "rotated"):
        await asyncio.to_thread(home.client.pair, name)
    await asyncio.to_thread(home.client.pair, "expired", expires_in=0.001)
    await asyncio.to_thread(home.client.revoke, "revoked")
    await asyncio.to_thread(home.client.rotate, "rotated")


def refuse(gateway: Gateway, name: str) -> Taken:
    """One handshake with a wrong proof, as the nodes' endpoint does it."""
    assert gateway._parts is not None
    candidate = Candidate(gateway._parts[1]._pairings)
    handshake = GatewayHandshake(protected=True, lookup=candidate.credentials)
    public = crypto.b64url(crypto.KeyPair().public)
    hello = Hello(
        protocol_version="0.1.0", node_name=name, capabilities=[STREAM], e2e=True, ecdh_pub=public
    )
    auth = Auth(node_name=name, proof=crypto.b64url(os.urandom(32)))
    hello_frame, auth_frame = Frame(encode(hello), binary=False), Frame(encode(auth), binary=False)
    began = time.thread_time_ns()
    handshake.receive_hello(hello_frame)
    greeted = time.thread_time_ns()
    try:
        handshake.receive_auth(auth_frame)
    except Refused:
        return Taken(greeted - began, time.thread_time_ns() - greeted)
    raise AssertionError(f"{name} was let in")


def one_key() -> int:
    """Nanoseconds to derive the key that one token gives: what a shortcut would save."""
    shared, salt = os.urandom(32), os.urandom(32)
    began = time.thread_time_ns()
    crypto.client_proof(crypto.handshake_key(shared, salt=salt, token="hnt_" + "x" * 43))
    return time.thread_time_ns() - began


class Differences(NamedTuple):
    """By how many nanoseconds each kind is slower than an unknown name, and what one key costs."""

    by_kind: dict[str, Taken]
    key: int

    @property
    def largest(self) -> int:
        return max(abs(part) for taken in self.by_kind.values() for part in taken)

    @property
    def tells(self) -> bool:
        """Whether a name is told by it: the least that a mistake would save is much more than this."""
        return self.largest > self.key // 2


@contextmanager
def undisturbed() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def measure(gateway: Gateway, rounds: int) -> Differences:
    taken: dict[str, list[Taken]] = {kind: [] for kind in KINDS}
    keys = []
    with undisturbed():
        for _ in range(rounds):
            for kind in random.sample(KINDS, len(KINDS)):
                taken[kind].append(refuse(gateway, kind))
            keys.append(one_key())

    def slower(kind: str) -> Taken:
        pairs = list(zip(taken[kind], taken["unknown"], strict=True))
        return Taken(
            round(statistics.median(one.hello - other.hello for one, other in pairs)),
            round(statistics.median(one.auth - other.auth for one, other in pairs)),
        )

    return Differences({kind: slower(kind) for kind in KINDS[1:]}, round(statistics.median(keys)))


async def run(rounds: int) -> Differences:
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        async with home.gateway_here() as gateway:
            await prepare(home)
            measure(gateway, 100)  # warm
            return measure(gateway, rounds)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.security.clock", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20_000, help="five handshakes each")
    try:
        found = asyncio.run(run(parser.parse_args().rounds))
    except HermesNodesError as error:
        print(error.message)
        return 1
    print(f"one key takes {found.key} ns; compared with an unknown name, by medians:")
    for kind, taken in found.by_kind.items():
        print(f"{kind:>8}  hello {taken.hello:+6} ns  auth {taken.auth:+6} ns")
    return 1 if found.tells else 0


if __name__ == "__main__":
    raise SystemExit(main())
