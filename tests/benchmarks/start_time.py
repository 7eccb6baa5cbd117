"""How long commands take, as whole processes, against a Typer hello-world in the same environment.

    python -m tests.benchmarks.start_time [ROUNDS]

in the checkout, in an environment where the package is installed. Every command runs once a round, in turn,
so that a machine's moods meet all alike; medians are compared. What must hold, in units of the hello-world:
`--version` at most 1.15, `exec NODE true` and `list` at most 1.6. Bare Python is shown as the floor.
Everything is compiled to bytecode first, as an installation is.
"""

import compileall
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import hermes_nodes
from tests.harness import Home

LIMITS = {"--version": 1.15, "exec NODE true": 1.6, "list": 1.6}
HELLO = """\
import typer

app = typer.Typer()


@app.command()
def hello(name: str = "world") -> None:
    print(f"hello {name}")


app()
"""


def main() -> int:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    compileall.compile_dir(Path(hermes_nodes.__file__).parent, quiet=1)
    with tempfile.TemporaryDirectory(prefix="hn-") as folder:
        home = Home(Path(folder))
        home.environ.pop("PYTHONWARNINGS")
        hello = home.folder / "hello.py"
        hello.write_text(HELLO)
        with home.gateway() as gateway, home.node(gateway, "node"):
            medians = measured(commands(hello), home.environ, rounds)
    return report(medians)


def commands(hello: Path) -> dict[str, list[str]]:
    program = str(Path(sys.executable).with_name("hermes-nodes"))
    return {
        "bare python": [sys.executable, "-c", "pass"],
        "hello-world": [sys.executable, str(hello)],
        "--version": [program, "--version"],
        "exec NODE true": [program, "exec", "node", "true"],
        "list": [program, "list"],
    }


def measured(
    chosen: Mapping[str, Sequence[str]], environ: Mapping[str, str], rounds: int
) -> dict[str, float]:
    """Median seconds of each command; the first round, in which caches fill, does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in chosen}
    for _ in range(rounds + 1):
        for name, command in chosen.items():
            started = time.perf_counter()
            subprocess.run(command, env=environ, stdout=subprocess.DEVNULL, check=True)
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(taken[1:]) for name, taken in seconds.items()}


def report(medians: Mapping[str, float]) -> int:
    unit, is_over = medians["hello-world"], False
    for name, seconds in medians.items():
        limit = LIMITS.get(name)
        ratio = seconds / unit
        is_over = is_over or (limit is not None and ratio > limit)
        bound = f"  at most {limit}" if limit else ""
        print(f"{name:<15} {seconds * 1000:6.1f} ms  {ratio:.2f}{bound}")
    return int(is_over)


if __name__ == "__main__":
    sys.exit(main())
