"""Nodes that lie about what they hold: a copy stays where it was asked for, and comes to an end."""

import asyncio
import base64
import hashlib
import json
import os
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import CompletedProcess
from typing import Literal

import pytest

from hermes_nodes.copying import nodes
from hermes_nodes.errors import CallFailed
from hermes_nodes.protocol.messages import (
    Cancel,
    ListDir,
    ListDirResult,
    Read,
    ReadResult,
    Stat,
    StatResult,
)
from hermes_nodes.protocol.stream import STDOUT
from tests.harness import Home, ScriptedNode, scripted_node

MIB = 1 << 20


def line(name: bytes, kind: str = "file", size: int = 4, **more: object) -> bytes:
    entry = {"name_b64": base64.b64encode(name).decode(), "kind": kind, "size_bytes": size, "perm": 0o644}
    return json.dumps({**entry, **more}).encode() + b"\n"


class Liar:
    """A node that says it has a directory, whose listing and whose files are what a test makes them."""

    def __init__(self, node: ScriptedNode) -> None:
        self._node = node
        self._task: asyncio.Task[None] | None = None
        self.listing: Callable[[str], Iterable[bytes]] = lambda _: []
        self.content: Iterable[bytes] = [b"lies"]
        self.kind: Literal["file", "dir"] = "dir"
        self.size = 4
        self.leaves = False

    async def serve(self) -> None:
        while True:
            match await self._node.receive():
                case _ if self.leaves:
                    await self._node.ws.close()
                case Stat() as request:
                    answer = StatResult(
                        id=request.id, status="ok", kind=self.kind, size_bytes=self.size, perm=0o6755
                    )
                    await self._node.send(answer)
                case ListDir() as request:
                    self._task = asyncio.create_task(self._list(request))
                case Read() as request:
                    self._task = asyncio.create_task(self._read(request))
                case Cancel() as request:
                    assert self._task is not None
                    self._task.cancel()
                    await self._node.send(ReadResult(id=request.id, status="cancelled"))

    async def _list(self, request: ListDir) -> None:
        for piece in self.listing(request.path):
            await self._node.send_data(request.id, STDOUT, piece)
        await self._node.send(ListDirResult(id=request.id, status="ok"))

    async def _read(self, request: Read) -> None:
        digest, size = hashlib.sha256(), 0
        for piece in self.content:
            await self._node.send_data(request.id, STDOUT, piece)
            digest.update(piece)
            size += len(piece)
        await self._node.send(
            ReadResult(id=request.id, status="ok", size_bytes=size, sha256=digest.hexdigest())
        )


@pytest.fixture
async def liar(home: Home) -> AsyncIterator[Liar]:
    async with connected(home) as liar:
        yield liar


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@asynccontextmanager
async def connected(home: Home) -> AsyncIterator[Liar]:
    async with home.gateway_here() as gateway:
        token = await asyncio.to_thread(home.pair, "liar")
        async with scripted_node(f"ws://127.0.0.1:{gateway.port}/ws/nodes") as node:
            await node.log_in("liar", token, ["fs"])
            liar = Liar(node)
            serving = asyncio.create_task(liar.serve())
            try:
                yield liar
            finally:
                serving.cancel()
                await asyncio.gather(serving, return_exceptions=True)


async def copied(home: Home, *arguments: str) -> CompletedProcess[bytes]:
    target = home.folder / "in" / "target"
    target.parent.mkdir(exist_ok=True)
    return await asyncio.to_thread(home.run, "cp", *arguments, str(target))


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


NO_NAMES = [b"../x", b"..", b".", b"", b"a/b", b"a/../../x", b"/etc/hermes-x", b"x\0y", b"/", b"x" * 256]


@pytest.mark.parametrize("kind", ["file", "dir"])
async def test_what_is_no_name_is_named_and_left_out(home: Home, liar: Liar, kind: str) -> None:
    entries = [line(name, kind) for name in NO_NAMES]
    liar.listing = lambda path: [*entries, line(b"good")] if path == "/d" else []
    done = await copied(home, "-r", "liar:/d")
    assert done.returncode == 1
    assert done.stderr.count(b"which is no name: it is left out") == len(NO_NAMES)
    assert done.stderr.count(b"error:") == len(NO_NAMES)
    assert tree(home.folder / "in") == {"target", "target/good"}
    assert not (home.folder / "x").exists()


async def test_entries_without_an_end_come_to_one(
    home: Home, liar: Liar, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = b"".join(line(b"%d" % number) for number in range(1000))

    assert nodes.MAX_ENTRIES <= 1_000_000
    monkeypatch.setattr(nodes, "MAX_ENTRIES", 5000)
    found = nodes.Nodes(home.client, _NoProgress(), print)
    liar.listing = lambda _: [lines] * 2
    assert len(await asyncio.to_thread(found.entries, "liar", "/d")) == 2000
    liar.listing = lambda _: [lines] * 6
    with pytest.raises(CallFailed, match="more than 5000 entries"):
        await asyncio.to_thread(found.entries, "liar", "/d")


class _NoProgress:
    def begin(self, name: str, size_bytes: int | None) -> None: ...
    def skip(self, size: int) -> None: ...
    def advance(self, size: int) -> None: ...
    def end(self) -> None: ...


async def test_directories_without_an_end_come_to_one(home: Home, liar: Liar) -> None:
    liar.listing = lambda _: [line(b"d", "dir")]
    done = await copied(home, "-r", "liar:/d")
    assert done.returncode == 1
    assert b"more than 200 directories within each other" in done.stderr


@pytest.mark.parametrize(
    "listing", [b"no json\n", b"[]\n", b'{"name_b64": 7}\n', b'{"name_b64": "!"}\n', b"x" * 100_000, b"{}"]
)
async def test_a_listing_that_is_none_is_said(home: Home, liar: Liar, listing: bytes) -> None:
    liar.listing = lambda _: [listing]
    done = await copied(home, "-r", "liar:/d")
    assert (done.returncode, tree(home.folder / "in")) == (1, set())
    assert b"node 'liar' sent a listing that is none" in done.stderr


@pytest.mark.parametrize("content", [[b"lie"], [b"lies", b"!"], [b"lies" * 100], []])
async def test_another_size_than_was_said_is_no_copy(home: Home, liar: Liar, content: list[bytes]) -> None:
    liar.kind, liar.content = "file", content
    done = await copied(home, "liar:/f")
    assert (done.returncode, tree(home.folder / "in")) == (1, set())
    assert b"error: 'liar:/f' changed while it was read" in done.stderr


async def test_what_a_node_lists_twice_is_written_twice_in_the_same_place(home: Home, liar: Liar) -> None:
    liar.listing = lambda path: [line(b"x", "dir"), line(b"x"), line(b"y", "link")] if path == "/d" else []
    done = await copied(home, "-r", "liar:/d")
    assert done.returncode == 1
    assert tree(home.folder / "in") == {"target", "target/x"}


async def test_nothing_is_written_through_a_link_that_is_in_the_target(home: Home, liar: Liar) -> None:
    outside = home.folder / "outside"
    (home.folder / "in" / "target" / "d").mkdir(parents=True)
    outside.mkdir()
    (outside / "f").write_text("mine")
    (home.folder / "in/target/d/sub").symlink_to(outside)
    (home.folder / "in/target/d/f").symlink_to(outside / "f")
    liar.listing = lambda path: [line(b"sub", "dir"), line(b"f")] if path == "/d" else [line(b"f")]
    done = await copied(home, "-r", "liar:/d")
    assert done.returncode == 1
    assert b"sub' is there and is not a directory" in done.stderr
    assert (os.listdir(outside), (outside / "f").read_text()) == (["f"], "mine")
    assert (home.folder / "in/target/d/f").read_text() == "lies"


async def test_a_file_does_not_come_with_the_right_to_become_its_owner(home: Home, liar: Liar) -> None:
    liar.kind = "file"
    assert (await copied(home, "liar:/f")).returncode == 0
    assert (home.folder / "in" / "target").stat().st_mode & 0o7777 == 0o755


async def test_what_a_node_says_moves_no_cursor(home: Home, liar: Liar) -> None:
    liar.listing = lambda _: [line(b"\x1b[2J", "link")]
    done = await copied(home, "-r", "liar:/d")
    assert done.returncode == 1
    assert b"\x1b" not in done.stderr


async def test_after_a_lost_connection_the_other_sources_are_not_tried(home: Home, liar: Liar) -> None:
    (home.folder / "in" / "target").mkdir(parents=True)
    liar.leaves = True
    done = await copied(home, "--json", "liar:one", "liar:two")
    assert done.returncode == 1
    assert [json.loads(text)["status"] for text in done.stdout.splitlines()] == ["node_disconnected"]


async def test_a_node_that_is_none_keeps_no_other_source_from_being_copied(home: Home, liar: Liar) -> None:
    liar.kind = "file"
    (home.folder / "in" / "target").mkdir(parents=True)
    done = await copied(home, "--json", "nobody:one", "liar:two")
    assert done.returncode == 1
    assert [json.loads(text)["status"] for text in done.stdout.splitlines()] == ["unknown_node", "ok"]
