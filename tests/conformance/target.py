"""The gateway under test: one that the suite starts, or any that already runs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.harness import GatewayProcess, Home

#: What a gateway of ours is started with: a peer may say its address, and commands go as they are.
OURS = {"HERMES_NODES_TRUSTED_PROXIES": "127.0.0.1", "HERMES_NODES_LEGACY_EXEC": "raw"}


@dataclass(frozen=True, kw_only=True)
class Target:
    """A gateway's address, and its settings as far as they show on the wire."""

    url: str
    handshake_seconds: float = 10.0
    ping_seconds: float = 30.0
    dead_seconds: float = 60.0
    rate_limit: int = 100


@dataclass(frozen=True, kw_only=True)
class OurTarget(Target):
    """A gateway that the suite has started, and whose operator it is."""

    home: Home
    process: GatewayProcess


#: A gateway that runs elsewhere and one pairing of it. Tests of an operator's acts are left out then.
URL, NODE, TOKEN = (os.environ.get(f"CONFORMANCE_{key}", "") for key in ("URL", "NODE", "TOKEN"))


def foreign_target() -> Target:
    """The gateway at CONFORMANCE_URL; other than default settings are to be told as well."""

    def told(key: str, default: float) -> float:
        return float(os.environ.get(f"CONFORMANCE_{key}", default))

    return Target(
        url=URL,
        handshake_seconds=told("HANDSHAKE_SECONDS", Target.handshake_seconds),
        ping_seconds=told("PING_SECONDS", Target.ping_seconds),
        dead_seconds=told("DEAD_SECONDS", Target.dead_seconds),
        rate_limit=int(told("RATE_LIMIT", Target.rate_limit)),
    )


@contextmanager
def our_target(
    folder: Path,
    *,
    handshake_seconds: float = Target.handshake_seconds,
    ping_seconds: float = Target.ping_seconds,
    dead_seconds: float = Target.dead_seconds,
    rate_limit: int = Target.rate_limit,
    legacy_streaming: bool = False,
) -> Iterator[OurTarget]:
    """A gateway of our own, in a home of its own."""
    home = Home(folder)
    environ = {
        **OURS,
        "HERMES_NODES_HANDSHAKE_TIMEOUT_SECONDS": str(handshake_seconds),
        "HERMES_NODES_HEARTBEAT_SWEEP_INTERVAL_SECONDS": str(ping_seconds),
        "HERMES_NODES_HEARTBEAT_STALE_SECONDS": str(dead_seconds),
        "HERMES_NODES_RATE_LIMIT_PER_NODE": str(rate_limit),
        "HERMES_NODES_LEGACY_STREAMING": str(legacy_streaming).lower(),
    }
    with home.gateway(**environ) as process:
        yield OurTarget(
            url=process.url,
            handshake_seconds=handshake_seconds,
            ping_seconds=ping_seconds,
            dead_seconds=dead_seconds,
            rate_limit=rate_limit,
            home=home,
            process=process,
        )
