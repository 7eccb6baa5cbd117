"""`exec` on five hundred nodes at once."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from hermes_nodes.disk import allow_many_files
from hermes_nodes.protocol.messages import Exec, ExecResult
from tests.harness import Home, ScriptedNode, memory_bytes, scripted_node

NODES = 500
#: Bytes that the client may hold for each: its thread, its socket, its buffers.
EACH = 200 * 1024
BASE = 60 * 1024 * 1024


async def serve(node: ScriptedNode, go_on: asyncio.Event, answered: asyncio.Semaphore) -> None:
    """Answer one command, when the test says so."""
    request = await node.receive()
    assert isinstance(request, Exec)
    answered.release()
    await go_on.wait()
    await node.send_data(request.id, 1, b"line\n")
    await node.send(ExecResult(id=request.id, status="ok"))


async def test_five_hundred_nodes_at_once_hold_their_memory(tmp_path: Path) -> None:
    allow_many_files()
    home = Home(tmp_path)
    go_on, begun = asyncio.Event(), asyncio.Semaphore(0)
    with home.gateway() as gateway:
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
            for number in range(NODES):
                made = await asyncio.to_thread(home.client.pair, f"node-{number}")
                node = await stack.enter_async_context(scripted_node(gateway.url))
                await node.log_in(f"node-{number}", str(made["token"]))
                tasks.create_task(serve(node, go_on, begun))
            calling = home.start("exec", "node-*", "true")
            for _ in range(NODES):
                await begun.acquire()
            held = memory_bytes(calling.process.pid)
            go_on.set()
            code, printed, said = await asyncio.to_thread(calling.end)
    assert (code, len(printed.splitlines())) == (0, NODES)
    assert said.endswith(b"500 nodes: 500 ok, 0 failed\n")
    assert held < BASE + NODES * EACH
