"""How fast bytes get through: 256 MiB from a command, to a command, from a file and to a file.

    python -m tests.benchmarks.stream [ROUNDS]

in the checkout, in an environment where the package is installed. Each is shown in MB/s beside its floor
of the same run, taken in turn: a local `bash -c` with a pipe for a command's output and input, `cp` for
files. The way through gateway and node is sealed and crosses four processes, and all of them run on this
one machine. Medians. First 1 GiB goes to a command's stdin, and by how much that makes gateway and node
grow is shown.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.harness import PROGRAM, Home, MemoryGrowth

SIZE = 256 * 1024 * 1024
PRODUCE = f"head -c {SIZE} /dev/zero"


def main() -> int:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory(prefix="hn-") as folder:
        home = Home(Path(folder))
        with home.gateway() as gateway, home.node(gateway, "node", allow=[home.folder]) as node:
            ways = Ways(home)
            processes = {"gateway": gateway.process.pid, "node": node.process.pid}
            growth = {name: MemoryGrowth(pid) for name, pid in processes.items()}
            print(f"1 GiB to stdin in {seconds_of(ways.gibibyte):.2f} s")
            for name, grown in growth.items():
                print(f"{name:<11} grew by {grown.peak / 1e6:.1f} MB at most")
            compare(ways, rounds)
    return 0


class Ways:
    """What is measured; the content of the files is random, of which nothing can be saved."""

    def __init__(self, home: Home) -> None:
        self._environ = home.environ
        self._source = home.folder / "source"
        self._target = home.folder / "target"
        with self._source.open("wb") as file:
            for _ in range(SIZE // (1024 * 1024)):
                file.write(os.urandom(1024 * 1024))

    def local_pipe(self) -> None:
        subprocess.run(["bash", "-c", f"{PRODUCE} | cat >/dev/null"], check=True)

    def exec(self) -> None:
        self._run("exec", "node", PRODUCE)

    def stdin(self) -> None:
        with self._source.open("rb") as source:
            self._run("exec", "-i", "node", "cat >/dev/null", stdin=source.fileno())

    def gibibyte(self) -> None:
        with subprocess.Popen(["head", "-c", str(2**30), "/dev/zero"], stdout=subprocess.PIPE) as zeros:
            assert zeros.stdout is not None
            self._run("exec", "-i", "node", f"test $(wc -c) = {2**30}", stdin=zeros.stdout.fileno())

    def copy(self) -> None:
        subprocess.run(["cp", str(self._source), str(self._target)], check=True)

    def write(self) -> None:
        with self._source.open("rb") as source:
            self._run("write", "node", str(self._target), stdin=source.fileno())

    def read(self) -> None:
        with self._target.open("wb") as target:
            self._run("read", "node", str(self._source), stdout=target.fileno())

    def _run(
        self, *arguments: str, stdin: int = subprocess.DEVNULL, stdout: int = subprocess.DEVNULL
    ) -> None:
        subprocess.run([*PROGRAM, *arguments], env=self._environ, stdin=stdin, stdout=stdout, check=True)


def compare(ways: Ways, rounds: int) -> None:
    chosen = {
        "local pipe": ways.local_pipe,
        "exec": ways.exec,
        "stdin": ways.stdin,
        "cp": ways.copy,
        "write": ways.write,
        "read": ways.read,
    }
    floors = {"exec": "local pipe", "stdin": "local pipe", "write": "cp", "read": "cp"}
    taken: dict[str, list[float]] = {name: [] for name in chosen}
    for _ in range(rounds):
        for name, way in chosen.items():
            taken[name].append(seconds_of(way))
    medians = {name: statistics.median(seconds) for name, seconds in taken.items()}
    for name, seconds in medians.items():
        floor = f"  {seconds / medians[floors[name]]:.1f} times {floors[name]}" if name in floors else ""
        print(f"{name:<11} {seconds:6.3f} s  {SIZE / seconds / 1e6:6.0f} MB/s{floor}")


def seconds_of(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
