"""Commands that are killed at any instant, and what the next one finds: ``python -m tests.cli.kills``.

    python -m tests.cli.kills [INSTANTS]

in the checkout, in an environment where the package is installed. The first `pair` of a home, and a `list`
that takes over what the older system has left there.
"""

import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from hermes_nodes.keys import find_key
from hermes_nodes.tokens import TokenStore
from tests import older_home
from tests.harness import Home
from tests.support import PATIENCE

TOKEN = re.compile(r"hnt_[A-Za-z0-9_-]{43}")


def tokens_in_store(home: Home) -> dict[str, str]:
    """Each live pairing's token, as the store has it."""
    key = find_key(home.settings, home.environ)
    assert key is not None
    with TokenStore.open(home.settings.token_store_path, [key]) as store:
        return {pairing.name: store.secrets(pairing.id)[0].value for pairing in store.pairings()}


def pairings(folder: Path, instants: int) -> None:
    """Each leaves a home that works, and a token that was printed is good."""
    homes = [new_home(folder / str(number)) for number in range(instants + 1)]

    def killed_after(home: Home, seconds: float) -> tuple[float, str]:
        return _killed_after(home, ("pair", "web"), home.path.exists, seconds)

    seconds, _ = killed_after(homes.pop(), PATIENCE)
    chance = random.Random(15)
    for number, home in enumerate(homes):
        # Spread over its run, from when it first touches the home.
        _, printed = killed_after(home, seconds * (number + chance.random()) / len(homes))
        listed = json.loads(home.ok("list", "--json"))
        if TOKEN.fullmatch(printed):
            assert tokens_in_store(home) == {"web": printed}
        assert home.run("pair", "web").returncode == (73 if listed else 0)


def takeovers(folder: Path, instants: int) -> None:
    """Each is done by the next command, and doubles nothing."""
    records = [older_home.record(f"node-{number:04}") for number in range(2_000)]
    homes = [new_home(folder / str(number)) for number in range(instants + 1)]
    for home in homes:
        older_home.leave(home.path, records=records)

    def killed_after(home: Home, seconds: float) -> float:
        has_begun = (home.path / "nodes" / "lock").exists
        return _killed_after(home, ("list", "--json"), has_begun, seconds)[0]

    seconds = killed_after(homes.pop(), PATIENCE)
    chance = random.Random(7)
    for number, home in enumerate(homes):
        killed_after(home, seconds * (number + chance.random()) / len(homes))
        listed = json.loads(home.ok("list", "--json", "--all"))
        assert [view["name"] for view in listed] == [record["name"] for record in records]


def new_home(folder: Path) -> Home:
    folder.mkdir()
    return Home(folder)


def _killed_after(
    home: Home, command: tuple[str, ...], has_begun: Callable[[], bool], seconds: float
) -> tuple[float, str]:
    """A command killed so long after it has begun on a home: how long it ran since, and what it said."""
    with home.start(*command) as running:
        while not has_begun() and running.process.poll() is None:
            pass  # as closely as it can be watched
        began = time.monotonic()
        try:
            stdout, _ = running.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            running.process.kill()
            stdout, _ = running.process.communicate()
        return time.monotonic() - began, stdout.decode().strip()


def main() -> int:
    instants = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    for kills in (pairings, takeovers):
        with tempfile.TemporaryDirectory(prefix="hn-") as folder:
            kills(Path(folder), instants)
        print(f"{kills.__name__}: {instants} kills")
    return 0


if __name__ == "__main__":
    sys.exit(main())
