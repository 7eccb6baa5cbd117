"""What takes longer than a test may: ``python -m tests.conformance.endurance``.

On an older node's one connection N guarded calls, each compared with what it must give, and then a command
that sleeps longer than the node and the gateway would bear silence. Under bash and under a plain sh.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.conformance.older_node import older_node
from tests.harness import Home


def endure(home: Home, name: str, *, calls: int, sleep: float) -> list[str]:
    """What went wrong; prints how long it took."""
    client, wrong = home.client, []
    session = home.node_view(name)["session_id"]
    started = time.monotonic()
    for number in range(calls):
        code = number % 256
        done = client.exec(name, f"printf 'EXIT {number}'; echo {number} >&2; exit {code}")
        if (done.stdout, done.stderr, done.exit_code) != (f"EXIT {number}", f"{number}\n", code):
            wrong.append(f"call {number}: {done}")
    each = (time.monotonic() - started) / max(calls, 1)
    print(f"{name}: {calls} calls, {1000 * each:.1f} ms each")
    done = client.exec(name, f"sleep {sleep:g}; echo awake", timeout=sleep + 30)
    if done.stdout != "awake\n":
        wrong.append(f"sleep: {done}")
    if home.node_view(name)["session_id"] != session:
        wrong.append("the node had to reconnect")
    print(f"{name}: slept {sleep:g} s, {len(wrong)} faults")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--sleep", type=float, default=120.0, metavar="SECONDS")
    options = parser.parse_args()
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        with home.gateway() as gateway:
            for shell in ("bash", "sh"):
                # Deaf while it works, and for longer than the call: nothing but us could cut it.
                patience = str(2 * options.sleep + 60)
                with older_node(home, gateway, shell, "--shell", shell, "--patience", patience):
                    wrong += endure(home, shell, calls=options.calls, sleep=options.sleep)
    print("\n".join(wrong[:20]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
