"""Our own node inside a test."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from hermes_nodes.audit import AuditLog
from hermes_nodes.node.agent import NodeAgent
from hermes_nodes.node.config import NodeConfig
from tests.support import PATIENCE


class OurNode:
    """`node run` without its process: what it does shows as states, each with its reason."""

    def __init__(self) -> None:
        self.states: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    async def state(self, *wanted: str) -> tuple[str, str]:
        """The next state of these, and its reason."""
        async with asyncio.timeout(PATIENCE):
            while (state := await self.states.get())[0] not in wanted:
                pass
        return state


@asynccontextmanager
async def our_node(url: str, name: str, token: str, folder: Path) -> AsyncIterator[OurNode]:
    settings = NodeConfig(
        path=folder / "config.toml",
        server_url=url,
        name=name,
        token=token,
        backoff_initial=30.0,  # one attempt is what a test looks at
    )
    node = OurNode()
    with AuditLog(folder / "audit.log") as trail:
        agent = NodeAgent(settings, trail, lambda *state: node.states.put_nowait(state))
        running = asyncio.create_task(agent.run())
        try:
            yield node
        finally:
            agent.stop()
            await running
