"""Attacks a gateway with frames that no honest node sends: `python -m tests.conformance.hostile`.

Exits with 1 unless the gateway afterwards serves as before, has logged no traceback, and holds neither
memory nor connections of those who attacked it.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import ClientError

from tests.conformance.frames import Conversation, Hostile, Stage, drawn
from tests.conformance.node import Node, connect, transport_of
from tests.conformance.operators import Operator, arrived
from tests.conformance.target import OurTarget, our_target
from tests.gateway.support import CLOSE, TEXT, frame
from tests.harness import MemoryGrowth, memory_bytes, until
from tests.support import PATIENCE

MIB = 1024 * 1024
#: Connections at a time. Some wait for a second until the gateway cuts them.
ATTACKERS = 48
#: Conversations drawn at a time; the first of each lot warm the gateway up.
LOT = 400
#: Seconds that a gateway needs at most to answer a close, also while it is busy with others.
SWALLOWED_AFTER = 1.0
#: How much more a gateway may hold at the end than after the first lot, and at any time in between.
MOST_KEPT, MOST_HELD = 32 * MIB, 192 * MIB
#: Messages of a node in a second; the rate limit would hide all that comes after it.
NO_LIMIT = 1_000_000


@dataclass
class Report:
    """What was sent, what came of it, and what should not have."""

    frames: Counter[str] = field(default_factory=Counter)
    stages: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    kept_bytes: int = 0
    held_bytes: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        def lines(title: str, counts: Counter[str]) -> list[str]:
            return [f"{title}: {counts.total()}", *(f"  {n:7} {what}" for what, n in counts.most_common())]

        return "\n".join(
            [
                *lines("frames", self.frames),
                *lines("connections", self.stages),
                *lines("ends", self.ends),
                f"seconds: {self.seconds:.1f}",
                f"memory kept: {self.kept_bytes / MIB:.1f} MiB",
                f"memory held at most: {self.held_bytes / MIB:.1f} MiB",
                *(f"FOUND: {finding}" for finding in self.findings),
            ]
        )


# -- one connection -------------------------------------------------------------------------------


def wire(hostile: Hostile, node: Node) -> bytes:
    """The frame's bytes, sealed now if it is to be."""
    if not hostile.sealed:
        return hostile.data
    return frame(TEXT, json.dumps(node.envelope(hostile.data)).encode())


class Attacker:
    """Plays conversations, one after the other, as a node of its own."""

    def __init__(self, target: OurTarget, number: int, report: Report) -> None:
        self._target = target
        self._report = report
        self._name = f"attacker-{number}"
        self._token = str(target.home.client.pair(self._name)["token"])

    async def play(self, conversation: Conversation) -> None:
        self._report.stages[conversation.stage.value] += 1
        self._report.frames.update(hostile.kind for hostile in conversation.frames)
        try:
            end = await (self._raw if conversation.stage is Stage.TCP else self._converse)(conversation)
        except TimeoutError:
            self._report.findings.append(f"a connection that was never ended: {conversation}")
            end = "none"
        self._report.ends[end] += 1

    async def _raw(self, conversation: Conversation) -> str:
        where = urlsplit(self._target.url)
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        try:
            with suppress(ConnectionError):
                writer.write(b"".join(hostile.data for hostile in conversation.frames))
                writer.write_eof()
                await asyncio.wait_for(reader.read(), PATIENCE)
        finally:
            writer.transport.abort()
        return "without a WebSocket"

    async def _converse(self, conversation: Conversation) -> str:
        with suppress(ConnectionError, ClientError):
            async with connect(self._target.url) as node:
                await self._reach(node, conversation.stage)
                transport = transport_of(node)
                # All at once, past the library, which would not send such frames.
                goodbye = frame(CLOSE, (1000).to_bytes(2, "big"))
                transport.write(b"".join(wire(hostile, node) for hostile in conversation.frames) + goodbye)
                return f"close {await self._end(node, transport)}"
        return "connection lost"

    async def _end(self, node: Node, transport: asyncio.Transport) -> int | None:
        """The gateway's close; a frame that was begun may have swallowed the goodbye, so hang up then."""
        with suppress(TimeoutError):
            return await node.closed(SWALLOWED_AFTER)
        transport.write_eof()
        return await node.closed()

    async def _reach(self, node: Node, stage: Stage) -> None:
        if stage is Stage.AUTH:
            await node.greet(self._name, encrypted=True)
        elif stage is not Stage.HELLO:
            await node.log_in(self._name, self._token, encrypted=stage is Stage.ENC)


# -- all of them ----------------------------------------------------------------------------------


async def attack(target: OurTarget, *, frames: int, seed: int, attackers: int = ATTACKERS) -> Report:
    """Send about so many frames and look at what is left of the gateway."""
    report, began = Report(), time.monotonic()
    pid = target.process.process.pid
    crowd = [Attacker(target, number, report) for number in range(attackers)]
    await check_service(target, report, "before")
    memory, before, files = None, 0, 0
    for lot in range(sys.maxsize):
        if report.frames.total() >= frames:
            break
        await play(crowd, drawn(seed + lot, LOT), frames - report.frames.total())
        if memory is None:
            memory, before, files = MemoryGrowth(pid), memory_bytes(pid), open_files(pid)
    await check_service(target, report, "after")
    await check_nothing_open(target, report, files)
    report.kept_bytes = memory_bytes(pid) - before
    report.held_bytes = memory.peak if memory else 0
    check_traces(target, report)
    report.seconds = time.monotonic() - began
    return report


async def play(crowd: list[Attacker], conversations: list[Conversation], most_frames: int) -> None:
    """Share the conversations out; none is begun beyond so many frames."""
    left = iter(conversations)
    room = most_frames

    async def act(attacker: Attacker) -> None:
        nonlocal room
        for conversation in left:
            if room <= 0:
                return
            room -= len(conversation.frames)
            await attacker.play(conversation)

    await asyncio.gather(*(act(attacker) for attacker in crowd))


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


async def check_service(target: OurTarget, report: Report, when: str) -> None:
    """A node that keeps to the protocol logs in and answers a call."""
    name = f"honest-{when}"
    with ThreadPoolExecutor(2) as threads:
        operator = Operator(target.home, name, threads)
        token = await operator.pair(name)
        for encrypted in (False, True):
            async with connect(target.url) as node:
                await node.log_in(name, token, encrypted=encrypted)
                await check_call(operator, node, report)


async def check_call(operator: Operator, node: Node, report: Report) -> None:
    call = operator.exec("echo hello", timeout=PATIENCE)
    request = await arrived(node, "exec", call)
    await node.send({"type": "exec_result", "id": request["id"], "status": "ok", "stdout": "hello\n"})
    result = await asyncio.wait_for(call, PATIENCE)
    if (result.status, result.stdout) != ("ok", "hello\n"):
        report.findings.append(f"a call that was answered ended as {result}")


async def check_nothing_open(target: OurTarget, report: Report, most_files: int) -> None:
    pid = target.process.process.pid
    try:
        await until(lambda: open_files(pid) <= most_files)
    except TimeoutError:
        report.findings.append(f"{open_files(pid) - most_files} descriptors stay open")
    connected = (await asyncio.to_thread(target.home.client.status))["nodes_connected"]
    if connected:
        report.findings.append(f"{connected} nodes are still connected")


def check_traces(target: OurTarget, report: Report) -> None:
    log = target.process.log
    for sign in ("Traceback", "ERROR", "exception was never retrieved", "Warning:"):
        if sign in log:
            at = log.index(sign)
            report.findings.append(f"the log holds {sign}: …{log[max(at - 500, 0) : at + 3000]}")
    if report.kept_bytes > MOST_KEPT:
        report.findings.append(f"{report.kept_bytes} bytes more are held than before")
    if report.held_bytes > MOST_HELD:
        report.findings.append(f"{report.held_bytes} bytes more were held on the way")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.hostile", description=__doc__)
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        our_target(Path(folder), rate_limit=NO_LIMIT, handshake_seconds=2.0) as target,
    ):
        report = asyncio.run(attack(target, frames=arguments.frames, seed=arguments.seed))
    print(report)
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main())
