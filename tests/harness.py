"""Real parts for tests: a home, its commands as processes, a gateway, nodes, and a scripted node."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Self

from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType

from hermes_nodes import config
from hermes_nodes.audit import Filter, Trail
from hermes_nodes.client import Client
from hermes_nodes.protocol.codec import Frame, RecordCodec
from hermes_nodes.protocol.handshake import NodeHandshake
from hermes_nodes.protocol.messages import FromGateway, Message
from tests.support import PATIENCE

PROGRAM = (sys.executable, "-m", "hermes_nodes")


class Home:
    """A throwaway HERMES_HOME, with everything that a user on it would type."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "h"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HERMES_")}
        self.environ = {**kept, "HERMES_HOME": str(self.path), "PYTHONWARNINGS": "default"}

    # -- commands --

    def run(
        self, *arguments: str, stdin: str | bytes = b"", **environ: str
    ) -> subprocess.CompletedProcess[bytes]:
        """One command, to its end."""
        return subprocess.run(
            [*PROGRAM, *arguments],
            env={**self.environ, **environ},
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )

    def ok(self, *arguments: str, stdin: str | bytes = b"", **environ: str) -> str:
        """What a command prints, which must succeed."""
        done = self.run(*arguments, stdin=stdin, **environ)
        assert done.returncode == 0, done
        return done.stdout.decode()

    def json(self, *arguments: str) -> dict[str, object]:
        document = json.loads(self.ok(*arguments, "--json"))
        assert isinstance(document, dict)
        return document

    def node_view(self, name: str) -> dict[str, object]:
        """One node as `list --json` shows it."""
        (view,) = json.loads(self.ok("list", name, "--all", "--json"))
        assert isinstance(view, dict)
        return view

    def start(self, *arguments: str, **environ: str) -> "Background":
        """One command in the background."""
        return Background(
            subprocess.Popen(
                [*PROGRAM, *arguments],
                env={**self.environ, **environ},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )

    # -- parts --

    @property
    def settings(self) -> config.Settings:
        return config.load({"port": "0"}, self.environ)

    @property
    def client(self) -> Client:
        return Client(environ=self.environ)

    @contextmanager
    def gateway(self, *options: str, **environ: str) -> Iterator["GatewayProcess"]:
        """`serve` on a free port, ready."""
        reading, writing = os.pipe()
        with (self.folder / "gateway.log").open("ab") as log:
            process = subprocess.Popen(
                [*PROGRAM, "serve", "--port", "0", "--ready-fd", str(writing), *options],
                env={**self.environ, **environ},
                stdin=subprocess.DEVNULL,
                stderr=log,
                pass_fds=[writing],
            )
        os.close(writing)
        with os.fdopen(reading) as ready, ended(process):
            facts = ready.read()
            assert facts, (self.folder / "gateway.log").read_text()
            yield GatewayProcess(process, json.loads(facts), self.folder / "gateway.log")

    def pair(self, name: str, *options: str) -> str:
        return self.ok("pair", name, *options).strip()

    @contextmanager
    def node(
        self, gateway: "GatewayProcess", name: str, *, allow: Sequence[Path] = (), token: str = ""
    ) -> Iterator["NodeProcess"]:
        """A paired machine's `node run`, connected."""
        folder = self.folder / f"node-{name}"
        environ = {"HERMES_NODE_CONFIG": str(folder / "config.toml")}
        options = [option for path in allow for option in ("--allow", str(path))]
        token = token or self.pair(name)
        self.ok("node", "join", gateway.url, "--name", name, *options, stdin=token, **environ)
        with self.rows(action="connect", node=name) as rows:
            with (folder / "run.log").open("ab") as log:
                process = subprocess.Popen(
                    [*PROGRAM, "node", "run"],
                    env={**self.environ, **environ},
                    stdin=subprocess.DEVNULL,
                    stderr=log,
                )
            with ended(process):
                session = str(next(rows)["session_id"])
                yield NodeProcess(process, name, token, folder, session)

    @contextmanager
    def rows(self, **match: str) -> Iterator[Iterator[dict[str, object]]]:
        """Rows of the trail as they come, from now on; asking for one waits for it."""
        stop = threading.Event()
        patience = threading.Timer(PATIENCE, stop.set)
        patience.start()
        try:
            with Trail(self.settings.audit_log_path, Filter(**match)) as trail:
                trail.tail(0)
                yield trail.follow(poll_seconds=0.01, stop=stop)
        finally:
            patience.cancel()

    def trail(self, **match: str) -> list[dict[str, object]]:
        """All rows so far that match."""
        with Trail(self.settings.audit_log_path, Filter(**match)) as trail:
            return list(trail.read())


class Background:
    """A command that is running."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()

    def line(self) -> str:
        """The next line of its stdout."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode()

    def end(self) -> tuple[int, bytes, bytes]:
        """Its exit code and what is left of its output."""
        stdout, stderr = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, stdout, stderr


class GatewayProcess:
    def __init__(self, process: subprocess.Popen[bytes], facts: dict[str, object], log: Path) -> None:
        self.process = process
        self.host = str(facts["host"])
        self.port = int(str(facts["port"]))
        self.socket = Path(str(facts["socket"]))
        self._log = log

    @property
    def url(self) -> str:
        return f"ws://{self.host}:{self.port}/ws/nodes"

    @property
    def log(self) -> str:
        return self._log.read_text()


class NodeProcess:
    def __init__(
        self, process: subprocess.Popen[bytes], name: str, token: str, folder: Path, session_id: str
    ) -> None:
        self.process = process
        self.name = name
        self.token = token
        self.folder = folder
        self.session_id = session_id

    @property
    def log(self) -> str:
        return (self.folder / "run.log").read_text()


@contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Stops a process as an operator would, when the block ends."""
    try:
        yield
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def memory_bytes(pid: int) -> int:
    """What a process holds in memory now."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"process {pid} has no memory")


class ScriptedNode:
    """The other end of the protocol, which does only what a test says."""

    def __init__(self, ws: "ClientWebSocketResponse[bool]") -> None:
        self.ws = ws
        self.codec: RecordCodec[FromGateway] | None = None
        self.session_id = ""

    async def send_text(self, text: str | bytes) -> None:
        await self.ws.send_str(text if isinstance(text, str) else text.decode())

    async def receive_json(self) -> dict[str, object]:
        message = await self.ws.receive(PATIENCE)
        assert message.type is WSMsgType.TEXT, message
        value = json.loads(message.data)
        assert isinstance(value, dict)
        return value

    async def log_in(self, name: str, token: str, capabilities: Sequence[str] = ()) -> None:
        """The handshake of our own node, to an open stream session."""
        handshake = NodeHandshake(
            name=name,
            token=token,
            node_version="test",
            platform="linux",
            arch="x86_64",
            capabilities=list(capabilities),
        )
        await self._send(handshake.hello())
        await self._send(handshake.receive_ack(await self._receive()))
        self.codec = handshake.receive_ok(await self._receive())
        self.session_id = handshake.session_id

    async def send(self, message: Message) -> None:
        assert self.codec is not None
        await self._send(self.codec.encode(message))

    async def receive(self) -> object:
        """The next message or data of the stream session."""
        assert self.codec is not None
        return self.codec.decode(await self._receive())

    async def closed(self) -> int | None:
        """Wait for the close; its code."""
        while True:
            message = await self.ws.receive(PATIENCE)
            if message.type in (WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.CLOSING, WSMsgType.ERROR):
                return self.ws.close_code

    async def _send(self, frame: Frame) -> None:
        kind = WSMsgType.BINARY if frame.binary else WSMsgType.TEXT
        await self.ws.send_frame(frame.data, kind)

    async def _receive(self) -> Frame:
        message = await self.ws.receive(PATIENCE)
        assert message.type in (WSMsgType.TEXT, WSMsgType.BINARY), (message, self.ws.close_code)
        return Frame(message.data, binary=message.type is WSMsgType.BINARY)


@asynccontextmanager
async def scripted_node(url: str) -> AsyncIterator[ScriptedNode]:
    """A connection to the nodes' endpoint on which nothing has been said yet."""
    async with (
        ClientSession() as http,
        http.ws_connect(url, decode_text=False, max_msg_size=0, autoping=False) as ws,
    ):
        yield ScriptedNode(ws)
