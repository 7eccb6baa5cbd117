"""A double of the older node software, written from PROTOCOL.md, with all that section 9 measured on it."""

import argparse
import asyncio
import base64
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from aiohttp import ClientError, WSMsgType
from cryptography.exceptions import InvalidTag

from tests.conformance.node import Json, Node, connect, unseal
from tests.conformance.older_shell import SHELLS, Chunks, Output, Shell, open_shell

if TYPE_CHECKING:
    from tests.harness import Background, GatewayProcess, Home

#: Bytes of a file's content (PROTOCOL.md, section 4).
LARGEST_FILE = 10 * 1024 * 1024
#: The longest back-off, in units of the first.
MOST_BACKOFF = 60
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Options:
    """How the node is started; all times in seconds."""

    url: str
    name: str
    token: str
    allow: list[Path]
    shell: str = "bash"
    encrypted: bool = False
    chunks: bool = False
    strict_base64: bool = False
    patience: float = 90.0
    retry_first: float = 1.0
    ping_every: float = 30.0


class Refused(Exception):
    """The gateway did not let the node in; its message is the reason."""


class Dropped(Exception):
    """The connection is over, whoever ended it."""


# -- the connection -------------------------------------------------------------------------------


class OlderNode:
    """Dials for ever; ``report`` is told what happens."""

    def __init__(self, options: Options, report: Callable[[str], None]) -> None:
        self._options = options
        self._report = report

    async def run(self) -> None:
        delays = backoff(self._options.retry_first)
        while True:
            try:
                async with connect(self._options.url) as wire:
                    session_id = await log_in(wire, self._options)
                    delays = backoff(self._options.retry_first)
                    self._report(f"connected {session_id}")
                    await self._serve(wire)
            except Refused as refused:
                self._report(f"refused {refused}")
            except (ClientError, OSError):
                self._report("refused unreachable")
            else:
                self._report(f"disconnected {wire.ws.close_code or 1006}")
            await asyncio.sleep(next(delays))

    async def _serve(self, wire: Node) -> None:
        """Until the connection ends, whichever way shows it first."""
        options = self._options
        async with open_shell(options.shell, options.allow[0]) as shell:
            session = Session(wire, shell, options)
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(session.read())
                    tasks.create_task(session.ping())
                    tasks.create_task(session.watch())
            except* (Dropped, ConnectionError):
                pass


def backoff(first: float) -> Iterator[float]:
    """Seconds between one attempt and the next."""
    factor = 1
    while True:
        yield first * factor
        factor = min(2 * factor, MOST_BACKOFF)


async def log_in(wire: Node, options: Options) -> str:
    """The handshake; the session's id. Raises Refused."""
    await wire.hello(
        options.name,
        encrypted=options.encrypted,
        node_version="0.1.0",
        platform=sys.platform,
        arch=platform.machine(),
        capabilities=["exec", "read", "write", *(["exec_chunk"] if options.chunks else [])],
    )
    wire.hello_ack = await _reply(wire, "hello_ack", options.patience)
    await wire.auth(options.name, **wire.credentials(options.token))
    ok = await _reply(wire, "auth_ok", options.patience)
    if wire.keys is not None:
        if ok.get("proof") != wire.keys.server_proof:
            raise Refused("wrong_proof")
        wire.session_key = wire.keys.session
    return wire.session_id


async def _reply(wire: Node, kind: str, within: float) -> Json:
    message = await wire.ws.receive(within)
    if message.type is not WSMsgType.TEXT:
        raise Refused(f"closed_{wire.ws.close_code}")
    reply: Json = json.loads(message.data)
    if reply["type"] != kind:
        raise Refused(reply.get("reason", reply["type"]))
    return reply


class Session:
    """Works through the gateway's calls, reading the next message when the last call is done."""

    def __init__(self, wire: Node, shell: Shell, options: Options) -> None:
        self._wire = wire
        self._shell = shell
        self._options = options
        self._files = Files(options.allow, strict_base64=options.strict_base64)
        self._chunked = options.chunks and "exec_chunk" in wire.hello_ack.get("capabilities", ())
        self._heard = time.monotonic()

    async def read(self) -> None:
        while True:
            message = await self._wire.ws.receive()
            self._heard = time.monotonic()
            match message.type:
                case WSMsgType.PING:
                    await self._wire.ws.pong(message.data)
                case WSMsgType.TEXT:
                    await self._handle(self._opened(message.data))
                case WSMsgType.CLOSE | WSMsgType.CLOSED | WSMsgType.CLOSING | WSMsgType.ERROR:
                    raise Dropped

    async def ping(self) -> None:
        while True:
            await asyncio.sleep(self._options.ping_every)
            await self._send(type="ping", ts=_now())

    async def watch(self) -> None:
        """Give up a gateway that has not been heard, be it that nobody listened."""
        while True:
            left = self._heard + self._options.patience - time.monotonic()
            if left <= 0:
                raise Dropped
            await asyncio.sleep(left)

    def _opened(self, content: bytes) -> Json:
        key = self._wire.session_key
        try:
            message: Json = json.loads(content)
            return message if key is None else json.loads(unseal(key, message["data"]))
        except (ValueError, KeyError, InvalidTag) as error:
            raise Dropped from error

    async def _send(self, **message: object) -> None:
        content = json.dumps(message, ensure_ascii=False)
        await self._wire.send_content(content.encode(errors="replace"))

    async def _handle(self, message: Json) -> None:
        match message.get("type"):
            case "ping":
                await self._send(type="pong", ts=_now(), echo_ts=message.get("ts"))
            case "bye":
                raise Dropped
            case "exec":
                await self._exec(message)
            case "read":
                await self._send(id=message["id"], **self._files.read(message))
            case "write":
                await self._send(id=message["id"], **self._files.write(message))

    async def _exec(self, call: Json) -> None:
        started = time.monotonic()
        output = Chunks(self._send, call["id"]) if self._chunked else Output()
        code = await self._shell.run(
            call.get("command", ""),
            cwd=self._files.folder(call.get("cwd")),
            seconds=call["timeout_ms"] / 1000 if call.get("timeout_ms") else None,
            take=output.take,
        )
        took = round((time.monotonic() - started) * 1000)
        await self._send(id=call["id"], duration_ms=took, **output.end(code, self._shell.stderr.take()))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# -- files ----------------------------------------------------------------------------------------


class NotAllowed(OSError):
    """The path lies outside every allowed one."""


class TooLarge(OSError):
    """The content has more bytes than a call may move."""


#: The names of section 4; the first that fits counts.
_ERRORS: tuple[tuple[type[OSError], str], ...] = (
    (NotAllowed, "path_not_allowed"),
    (TooLarge, "file_too_large"),
    (FileNotFoundError, "file_not_found"),
    (FileExistsError, "file_exists"),
    (PermissionError, "permission_denied"),
    (OSError, "io_error"),
)
_MODES = {"overwrite": "wb", "create": "xb", "append": "ab"}


class Files:
    """What the node reads and writes, below the allowed paths."""

    def __init__(self, allow: list[Path], *, strict_base64: bool) -> None:
        self._allow = [path.resolve() for path in allow]
        self._strict = strict_base64

    def folder(self, cwd: str | None) -> str | None:
        """Where a command that asks for ``cwd`` is run; None where it asks for nothing."""
        if not cwd:
            return None
        return cwd if self._is_allowed(cwd) else str(self._allow[0])

    def read(self, call: Json) -> Json:
        try:
            content = self._content(call["path"])
        except OSError as error:
            return {"type": "read_result", **_failure(error)}
        encoded = base64.b64encode(content).decode()
        return {"type": "read_result", "status": "ok", "content_b64": encoded, "size_bytes": len(content)}

    def write(self, call: Json) -> Json:
        try:
            content = base64.b64decode(call["content_b64"], validate=self._strict)
            mode = _MODES[call.get("mode") or "overwrite"]
        except (KeyError, ValueError) as error:
            return _bad_request(repr(error))
        if not call["content_b64"]:
            return _bad_request("no content")
        try:
            self._store(call["path"], mode, content)
        except OSError as error:
            return {"type": "write_result", **_failure(error)}
        return {"type": "write_result", "status": "ok", "bytes_written": len(content)}

    def _is_allowed(self, path: str) -> bool:
        if "\0" in path:
            return False
        real = Path(self._allow[0], path).resolve()
        return any(real.is_relative_to(allowed) for allowed in self._allow)

    def _allowed(self, path: str) -> Path:
        if not self._is_allowed(path):
            raise NotAllowed(f"{path} is not below an allowed path")
        return Path(self._allow[0], path)

    def _content(self, path: str) -> bytes:
        file = self._allowed(path)
        if file.stat().st_size > LARGEST_FILE:
            raise TooLarge(f"{path} is larger than {LARGEST_FILE} bytes")
        return file.read_bytes()

    def _store(self, path: str, mode: str, content: bytes) -> None:
        file = self._allowed(path)
        if len(content) > LARGEST_FILE:
            raise TooLarge(f"{path} would be larger than {LARGEST_FILE} bytes")
        with file.open(mode) as target:
            target.write(content)


def _failure(error: OSError) -> Json:
    name = next(name for kind, name in _ERRORS if isinstance(error, kind))
    return {"status": "error", "error": name, "error_detail": str(error)}


def _bad_request(detail: str) -> Json:
    return {"type": "error", "code": 4000, "reason": "bad_request", "detail": detail}


# -- the process ----------------------------------------------------------------------------------


def options_from(arguments: list[str], token: str) -> Options:
    parser = argparse.ArgumentParser(prog="older_node", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("name")
    parser.add_argument("--allow", type=Path, action="append")
    parser.add_argument("--shell", choices=SHELLS, default=Options.shell)
    for flag in ("--encrypted", "--chunks", "--strict-base64"):
        parser.add_argument(flag, action="store_true")
    for seconds in ("patience", "retry_first", "ping_every"):
        flag = f"--{seconds.replace('_', '-')}"
        parser.add_argument(flag, type=float, default=getattr(Options, seconds), metavar="SECONDS")
    given = vars(parser.parse_args(arguments))
    return Options(token=token, **{**given, "allow": given["allow"] or [Path.cwd()]})


async def run(options: Options) -> None:
    """Until SIGTERM."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await OlderNode(options, lambda event: print(event, flush=True)).run()


class Running(NamedTuple):
    """An older node's process, and the folder that it allows."""

    process: "subprocess.Popen[bytes]"
    folder: Path
    output: "Background"

    def line(self) -> str:
        """The next thing that happens to it."""
        return self.output.line().removesuffix("\n")

    def reconnected(self) -> str:
        """Wait until it is connected, past whatever happens before; the session's id."""
        while not (line := self.line()).startswith("connected "):
            assert line, "the older node has ended"
        return line.removeprefix("connected ")


@contextmanager
def older_node(
    home: "Home", gateway: "GatewayProcess", name: str, *options: str, token: str = ""
) -> Iterator[Running]:
    """An older node's process, connected; paired first unless a token is given."""
    # The node itself must not load the product, which the harness does.
    from tests.harness import Background, ended  # noqa: PLC0415

    token = token or home.pair(name)
    folder = Path(tempfile.mkdtemp(prefix=f"older-{name}-", dir=home.folder))
    command = (sys.executable, "-m", __name__, gateway.url, name, "--allow", str(folder), *options)
    environ = {**home.environ, "HERMES_NODE_TOKEN": token}
    with (
        (home.folder / f"older-{name}.log").open("ab") as log,
        subprocess.Popen(
            command,
            env=environ,
            cwd=_ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
        ) as process,
        ended(process),
    ):
        node = Running(process, folder, Background(process))
        node.reconnected()
        yield node


if __name__ == "__main__":
    with suppress(asyncio.CancelledError):
        # Taken out of the environment, which the shell inherits.
        asyncio.run(run(options_from(sys.argv[1:], os.environ.pop("HERMES_NODE_TOKEN", ""))))
