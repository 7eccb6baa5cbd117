"""How fast `cp` copies a large file each way, and how much memory gateway, node and `cp` take for it.

    python -m tests.benchmarks.copy [GIB] [ROUNDS]

in the checkout, in an environment where the package is installed; Linux. Each way is shown beside a local
`cp` with a `sync` of the target, taken in turn in the same run, as ours ends on the disk as well. Medians.
Every copy is compared byte by byte with its source.
"""

import filecmp
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.harness import PROGRAM, Home, MemoryGrowth

GIB = 1 << 30
BLOCK = 1 << 20


def main() -> int:
    size = int(float(sys.argv[1]) * GIB) if len(sys.argv) > 1 else GIB
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    with tempfile.TemporaryDirectory(prefix="hn-") as folder:
        home = Home(Path(folder))
        with (
            home.gateway() as gateway,
            home.node(gateway, "one", allow=[home.folder]) as one,
            home.node(gateway, "two", allow=[home.folder]),
        ):
            grown = [MemoryGrowth(gateway.process.pid), MemoryGrowth(one.process.pid)]
            compare(home, size, rounds)
            for name, growth in zip(("gateway", "node"), grown, strict=True):
                print(f"{name:<9} grew by {growth.peak / 1e6:.0f} MB")
            print(
                f"cp itself {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3:.0f} MB at most"
            )
    return 0


def compare(home: Home, size: int, rounds: int) -> None:
    source, target = home.folder / "source", home.folder / "target"
    with source.open("wb") as file:
        for _ in range(size // BLOCK):
            file.write(os.urandom(BLOCK))
    ways = {
        "local cp": ["sh", "-c", f"cp {source} {target} && sync {target}"],
        "to node": [*PROGRAM, "cp", str(source), f"one:{target}"],
        "from node": [*PROGRAM, "cp", f"one:{source}", str(target)],
        "node-node": [*PROGRAM, "cp", f"one:{source}", f"two:{target}"],
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, command in ways.items():
            target.unlink(missing_ok=True)
            started = time.perf_counter()
            subprocess.run(command, env=home.environ, check=True)
            taken[name].append(time.perf_counter() - started)
            assert filecmp.cmp(source, target, shallow=False), name
    floor = statistics.median(taken["local cp"])
    for name, seconds in taken.items():
        median = statistics.median(seconds)
        print(
            f"{name:<9} {median:7.2f} s  {size / median / 1e6:6.0f} MB/s  {median / floor:5.1f} times local"
        )


if __name__ == "__main__":
    sys.exit(main())
