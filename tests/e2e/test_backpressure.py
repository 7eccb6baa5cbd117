"""A reader that stops reading holds up its own call, and nothing else: not other calls, not memory."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

from tests.harness import (
    Background,
    GatewayProcess,
    Home,
    MemoryGrowth,
    NodeProcess,
    processes_of,
)
from tests.support import SOON

MIB = 1024 * 1024
MOST_GROWTH = 30 * MIB

WRITER = """
import hashlib, os, sys
digest = hashlib.sha256()
print(os.environ["HERMES_NODES_CALL"], flush=True)
for _ in range(int(sys.argv[1])):
    piece = os.urandom(1 << 20)
    digest.update(piece)
    sys.stdout.buffer.write(piece)
sys.stdout.buffer.flush()
open(sys.argv[2], "w").write(digest.hexdigest())
"""


def written(pid: int) -> int:
    """Bytes that a process has written so far (proc(5))."""
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        if line.startswith("wchar:"):
            return int(line.split()[1])
    raise AssertionError(f"process {pid} says nothing of its writing")


def start_writer(home: Home, mebibytes: int, digest: Path) -> tuple[Background, int]:
    """A call that writes that much, of which only the first line is read; its process."""
    running = home.start("exec", "laptop", "python3", "-c", WRITER, str(mebibytes), str(digest))
    (pid,) = processes_of(running.line().strip())
    return running, pid


def serve_others_until_stalled(home: Home, pid: int) -> Iterator[str]:
    """Other calls, until the writer has not got on during five of them; what they say."""
    before, unchanged = -1, 0
    while unchanged < 5:
        yield home.client.exec("laptop", "sleep 0.02; echo served").stdout
        now = written(pid)
        unchanged = unchanged + 1 if now == before else 0
        before = now


@pytest.fixture
def own_node(tmp_path: Path) -> Iterator[tuple[Home, GatewayProcess, NodeProcess]]:
    """A gateway and a node with no past, whose memory says something."""
    home = Home(tmp_path)
    with home.gateway() as gateway, home.node(gateway, "laptop") as node:
        yield home, gateway, node


def test_a_stalled_reader_costs_neither_memory_nor_other_calls(
    own_node: tuple[Home, GatewayProcess, NodeProcess], tmp_path: Path
) -> None:
    home, gateway, node = own_node
    home.client.exec("laptop", "true")
    growths = [MemoryGrowth(gateway.process.pid), MemoryGrowth(node.process.pid)]
    running, pid = start_writer(home, 500, tmp_path / "digest")
    with running:
        assert set(serve_others_until_stalled(home, pid)) == {"served\n"}
        assert written(pid) < MOST_GROWTH
        durations = [home.client.exec("laptop", "true").duration_ms for _ in range(20)]
        assert median(durations) < 500
        assert max(durations) < SOON * 1000
        assert [growth.peak < MOST_GROWTH for growth in growths] == [True, True]


def test_a_reader_that_goes_on_after_a_stall_gets_everything(
    home: Home, node: NodeProcess, tmp_path: Path
) -> None:
    digest = tmp_path / "digest"
    running, pid = start_writer(home, 60, digest)
    with running:
        assert set(serve_others_until_stalled(home, pid)) == {"served\n"}
        assert not digest.exists()
        code, content, stderr = running.end()
    assert (code, len(content), stderr) == (0, 60 * MIB, b"")
    assert hashlib.sha256(content).hexdigest() == digest.read_text()
