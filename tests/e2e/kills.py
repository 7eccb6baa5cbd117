"""Kills a gateway at random instants under load, and looks at what it had promised before.

    python -m tests.e2e.kills [INSTANTS] [SEED]

in the checkout, in an environment where the package is installed. After each kill the gateway is started
again on the same home, and then: every call that was answered has its row and no call has two, every
pairing that was acknowledged is there, no token that was revoked opens the door, and the trail verifies.
"""

import asyncio
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import count
from pathlib import Path

from hermes_nodes.audit.verify import chains_of, verify
from hermes_nodes.books import read_chains
from hermes_nodes.errors import HermesNodesError
from hermes_nodes.keys import ensure_key
from hermes_nodes.protocol.handshake import Refused
from tests.harness import GatewayProcess, Home, scripted_node

NODE = "laptop"
#: Seconds of load before a kill, at most.
LOAD = 0.5
CALLERS = 4
FAST = "backoff_initial = 0.05\nbackoff_max = 0.2"


class Promises:
    """What the gateway has acknowledged, over all its lives."""

    def __init__(self) -> None:
        self.calls: set[str] = set()
        self.pairings = 0
        self.tokens: dict[str, str] = {}
        self.revoked: dict[str, str] = {}
        self._numbers = iter(range(10**9))

    def call(self, home: Home) -> None:
        self.calls.add(home.client.exec(NODE, f"echo {next(self._numbers)}").request_id)

    def pair(self, home: Home) -> None:
        name = f"node-{next(self._numbers)}"
        self.tokens[name] = str(home.client.pair(name)["token"])
        self.pairings += 1

    def revoke(self, home: Home) -> None:
        """The oldest one; if that is not acknowledged, it may be revoked or not."""
        if self.tokens:
            name, token = next(iter(self.tokens.items()))
            del self.tokens[name]
            home.client.revoke(name)
            self.revoked[name] = token


def load(home: Home, work: Callable[[Home], None], stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            work(home)
        except (HermesNodesError, OSError):
            stop.wait(0.01)  # the gateway is gone, or its node is not back yet


def kill_under_load(home: Home, gateway: GatewayProcess, promises: Promises, seconds: float) -> None:
    """Load from several sides, and a kill after so many seconds of it."""
    stop = threading.Event()
    works = [*[promises.call] * CALLERS, promises.pair, promises.revoke]
    with ThreadPoolExecutor(len(works)) as pool:
        running = [pool.submit(load, home, work, stop) for work in works]
        stop.wait(seconds)
        gateway.process.kill()
        gateway.process.wait()
        stop.set()
    for one in running:
        one.result()


def check(home: Home, gateway: GatewayProcess, promises: Promises) -> None:
    rows = home.trail()
    counted = Counter(row["request_id"] for row in rows if row["request_id"])
    assert set(counted.values()) <= {1}, [name for name, count in counted.items() if count > 1]
    done = {row["request_id"] for row in rows if row["status"] == "ok"}
    assert promises.calls <= done, promises.calls - done
    names = {str(view["name"]) for view in home.client.nodes()}
    assert promises.tokens.keys() <= names, promises.tokens.keys() - names
    assert not promises.revoked.keys() & names
    for name, token in list(promises.revoked.items())[-3:]:
        assert asyncio.run(is_refused(gateway, name, token)), name
    key, _ = ensure_key(home.settings, home.environ)
    stored = read_chains(home.settings.token_store_path, [key])
    assert stored is not None
    path = home.settings.audit_log_path
    report = verify(path, stored[0], chains_of(stored[1], path))
    assert report.ok, report.damage


async def is_refused(gateway: GatewayProcess, name: str, token: str) -> bool:
    async with scripted_node(gateway.url) as node:
        try:
            await node.log_in(name, token)
        except Refused:
            return True
    return False


def run(folder: Path, instants: int, seed: int) -> Promises:
    """So many kills, and on until there is something that was promised, which this gives."""
    home, promises, chosen = Home(folder), Promises(), random.Random(seed)
    port = "0"
    with ExitStack() as stack:
        for number in count():
            with home.gateway("--port", port) as gateway:
                if number == 0:
                    port = str(gateway.port)
                    stack.enter_context(home.node(gateway, NODE, settings=FAST))
                check(home, gateway, promises)
                if number >= instants and ((promises.calls and promises.pairings) or number > 4 * instants):
                    break
                kill_under_load(home, gateway, promises, chosen.uniform(0, LOAD))
    return promises


def main() -> int:
    instants = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else int(time.time())
    with tempfile.TemporaryDirectory(prefix="hn-") as folder:
        started = time.monotonic()
        promises = run(Path(folder), instants, seed)
        home = Home(Path(folder))
        statuses = Counter(str(row["status"]) for row in home.trail() if row["request_id"])
        print(f"seed {seed}: {instants} kills in {time.monotonic() - started:.0f} s")
        made, revoked = promises.pairings, len(promises.revoked)
        print(f"acknowledged: {len(promises.calls)} calls, {made} pairings, {revoked} revoked")
        print(f"rows of calls: {dict(statuses)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
