"""Real parts for tests: a home, its commands as processes, a gateway, nodes, and a scripted node."""

import asyncio
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Self

from aiohttp import ClientSession, ClientWebSocketResponse, ClientWSTimeout, WSMsgType

from hermes_nodes import config
from hermes_nodes.audit import Filter, Trail
from hermes_nodes.client import Client
from hermes_nodes.errors import GatewayNotRunning
from hermes_nodes.gateway import Gateway
from hermes_nodes.node import config as node_config
from hermes_nodes.node.processes import MARK
from hermes_nodes.protocol.codec import Frame, RecordCodec
from hermes_nodes.protocol.handshake import NodeHandshake
from hermes_nodes.protocol.messages import FromGateway, Message
from hermes_nodes.protocol.stream import call_key
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
        assert done.returncode == 0, (done.returncode, done.stderr)
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

    @asynccontextmanager
    async def gateway_here(self, **environ: str) -> AsyncIterator[Gateway]:
        """The gateway in this process, for what only a look inside shows."""
        environ = {**self.environ, **environ}
        async with Gateway(config.load({"port": "0"}, environ), environ=environ) as gateway:
            yield gateway

    def pair(self, name: str, *options: str) -> str:
        """The token of a new pairing; the command is started only where there is more to it."""
        if not options:
            with suppress(GatewayNotRunning):
                return str(self.client.pair(name)["token"])
        return self.ok("pair", name, *options).strip()

    @contextmanager
    def node(
        self,
        gateway: "GatewayProcess",
        name: str,
        *,
        allow: Sequence[Path] = (),
        token: str = "",
        settings: str = "",
    ) -> Iterator["NodeProcess"]:
        """A paired machine's `node run`, connected; ``settings`` are more lines for its config.toml."""
        token = token or self.pair(name)
        folder = self.join(gateway.url, name, token, allow=allow, settings=settings)
        with self.rows(action="connect", node=name) as rows, self.node_run(folder) as process:
            session = str(next(rows)["session_id"])
            yield NodeProcess(process, name, token, folder, session)

    def join(
        self, url: str, name: str, token: str, *, allow: Sequence[Path] = (), settings: str = ""
    ) -> Path:
        """A machine's settings, as `node join` writes them; the folder that holds them."""
        folder = self.folder / f"node-{name}"
        path = folder / "config.toml"
        allowed = [str(one) for one in allow]
        node_config.write(path, server_url=url, name=name, token=token, allowed_paths=allowed)
        path.write_text(path.read_text().replace("[node]\n", f"[node]\n{settings}\n"))
        return folder

    @contextmanager
    def node_run(self, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
        """`node run` with the settings in a folder, whether it gets connected or not."""
        with (folder / "run.log").open("ab") as log:
            process = subprocess.Popen(
                [*PROGRAM, "node", "run"],
                env={**self.environ, "HERMES_NODE_CONFIG": str(folder / "config.toml")},
                stdin=subprocess.DEVNULL,
                stderr=log,
            )
        with ended(process):
            yield process

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

    def line(self, within: float = PATIENCE) -> str:
        """The next line of its stdout, which must come within so many seconds; empty at the end."""
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        deadline = time.monotonic() + within
        line = bytearray()
        # Byte by byte past Python's own buffer, so that nothing waits there unseen.
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([fd], [], [], max(deadline - time.monotonic(), 0))
            assert ready, f"no whole line within {within} s, only {bytes(line)!r}"
            byte = os.read(fd, 1)
            if not byte:
                break
            line += byte
        return line.decode()

    def lines(self, count: int) -> list[str]:
        """The next lines of its stdout, without their ends."""
        return [self.line().removesuffix("\n") for _ in range(count)]

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
        #: Where operators reach it over the network, if `control_listen` is set.
        self.control_url = str(facts["control_url"])
        self._log = log

    @property
    def url(self) -> str:
        scheme = "wss" if self.control_url.startswith("https:") else "ws"
        return f"{scheme}://{self.host}:{self.port}/ws/nodes"

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


def memory_bytes(pid: int, key: str = "VmRSS") -> int:
    """What a process holds in memory now; with ``VmHWM`` what it held at most."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"process {pid} has no memory")


class MemoryGrowth:
    """By how many bytes the memory of a process has grown at most, from now on."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak starts again from here (proc(5))
        self._before = memory_bytes(pid)

    @property
    def peak(self) -> int:
        return memory_bytes(self._pid, "VmHWM") - self._before


def processes_of(call_id: str) -> set[int]:
    """The processes of a call that live, by their mark."""
    mark = f"{MARK}={call_id}".encode()
    found = set()
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # gone meanwhile
            if mark in environ.read_bytes().split(b"\0"):
                found.add(int(environ.parent.name))
    return found


class Watched:
    """Processes that are alive, whose ends can be waited for."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._fds = [os.pidfd_open(pid) for pid in pids]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._fds:
            os.close(fd)

    def living(self, within: float = 0.0) -> int:
        """How many are left when all have gone, or after so many seconds."""
        deadline = time.monotonic() + within
        left = list(self._fds)
        while left:
            gone, _, _ = select.select(left, [], [], max(deadline - time.monotonic(), 0))
            if not gone:
                break
            left = [fd for fd in left if fd not in gone]
        return len(left)


def holds_connection(port: int, peer_port: int) -> bool:
    """Whether a process still has the server's end of this connection open (proc(5): tcp)."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        ports = [int(fields[column].rpartition(":")[2], 16) for column in (1, 2)]
        if ports == [port, peer_port]:
            return fields[9] != "0"  # a socket that nobody holds has no inode
    return False


#: What a command can do to its node: between the two are its keeper, and the process that starts commands.
KILL_THE_NODE = "kill -KILL $(ps -o ppid= $(ps -o ppid= $PPID))"


async def until(condition: Callable[[], bool], within: float = PATIENCE) -> None:
    """Wait for what tells nobody when it comes."""
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110 - the kernel sets no Event
            await asyncio.sleep(0.01)


async def control_request(
    gateway_socket: Path | str, head: str, body: bytes = b"", *, close: bool = True
) -> tuple[int, dict[str, str], bytes]:
    """One HTTP request to the control socket: status, headers and the rest until its end."""
    extra = "Connection: close\r\n" if close else ""
    head = f"{head} HTTP/1.1\r\nHost: localhost\r\n{extra}Content-Length: {len(body)}\r\n\r\n"
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_unix_connection(str(gateway_socket))
        try:
            writer.write(head.encode() + body)
            raw = await reader.read()
        finally:
            writer.close()
    top, _, rest = raw.partition(b"\r\n\r\n")
    first, *lines = top.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(first.split()[1]), headers, rest


class ScriptedNode:
    """The other end of the protocol, which does only what a test says."""

    def __init__(self, ws: "ClientWebSocketResponse[bool]") -> None:
        self.ws = ws
        self.codec: RecordCodec[FromGateway] | None = None
        self.session_id = ""
        #: Of this end of the connection.
        self.port = int(ws.get_extra_info("sockname")[1])
        self._handshake: NodeHandshake | None = None

    async def send_text(self, text: str | bytes) -> None:
        await self.ws.send_str(text if isinstance(text, str) else text.decode())

    async def receive_json(self) -> dict[str, object]:
        message = await self.ws.receive(PATIENCE)
        assert message.type is WSMsgType.TEXT, message
        value = json.loads(message.data)
        assert isinstance(value, dict)
        return value

    async def greet(self, name: str, token: str, capabilities: Sequence[str] = ()) -> Frame:
        """The first half of our own node's handshake; gives the `auth` that is still to be sent."""
        self._handshake = NodeHandshake(
            name=name,
            token=token,
            node_version="test",
            platform="linux",
            arch="x86_64",
            capabilities=list(capabilities),
        )
        await self.send_frame(self._handshake.hello())
        return self._handshake.receive_ack(await self._receive())

    async def prove(self, auth: Frame) -> None:
        """The second half, to an open stream session; raises Refused."""
        assert self._handshake is not None
        await self.send_frame(auth)
        self.codec = self._handshake.receive_ok(await self._receive())
        self.session_id = self._handshake.session_id

    async def log_in(self, name: str, token: str, capabilities: Sequence[str] = ()) -> None:
        """The handshake of our own node."""
        await self.prove(await self.greet(name, token, capabilities))

    async def send(self, message: Message) -> None:
        assert self.codec is not None
        await self.send_frame(self.codec.encode(message))

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

    async def send_data(self, call_id: str, channel: int, payload: bytes) -> None:
        assert self.codec is not None
        await self.send_frame(self.codec.encode_data(call_key(call_id), channel, payload))

    async def send_frame(self, frame: Frame) -> None:
        kind = WSMsgType.BINARY if frame.binary else WSMsgType.TEXT
        await self.ws.send_frame(frame.data, kind)

    def stop_reading(self) -> None:
        """Leave what comes in the kernel's buffers, until they are full."""
        connection = self.ws._response.connection
        assert connection is not None
        transport = connection.transport
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()

    async def _receive(self) -> Frame:
        message = await self.ws.receive(PATIENCE)
        assert message.type in (WSMsgType.TEXT, WSMsgType.BINARY), (message, self.ws.close_code)
        return Frame(message.data, binary=message.type is WSMsgType.BINARY)


@asynccontextmanager
async def scripted_node(
    url: str, *, headers: Mapping[str, str] | None = None
) -> AsyncIterator[ScriptedNode]:
    """A connection to the nodes' endpoint on which nothing has been said yet."""
    async with (
        ClientSession() as http,
        http.ws_connect(
            url,
            headers=headers,
            decode_text=False,
            max_msg_size=0,
            autoping=False,
            timeout=ClientWSTimeout(ws_close=0.2),  # what a test leaves open is no part of it
        ) as ws,
    ):
        yield ScriptedNode(ws)
