"""What tests of sessions use: the other side of one, without sockets."""

import base64
import re
from collections.abc import Callable
from typing import Any

from hermes_nodes.calls import Call
from hermes_nodes.older.sessions import OlderSession
from hermes_nodes.protocol.codec import EncCodec, Frame, PlainCodec, RecordCodec
from hermes_nodes.protocol.messages import (
    FROM_GATEWAY,
    Exec,
    ExecResult,
    FromGateway,
    Message,
    Read,
    Request,
    Unknown,
    Write,
    new_call_id,
)
from hermes_nodes.protocol.stream import STDERR, STDOUT, Source
from tests.protocol.support import TOKEN, HandmadeNode, converse, gateway

LIFE = {"ping_after": 30.0, "dead_after": 60.0}


class Line:
    """The link of a session: keeps what it was asked for."""

    def __init__(self) -> None:
        self.wakes = 0
        self.closed: list[int] = []
        self.last: list[Frame] = []

    def wake(self) -> None:
        self.wakes += 1

    def close(self, code: int, last: Callable[[], Frame] | None = None) -> None:
        self.closed.append(code)
        if last is not None:
            self.last.append(last())


class Pieces:
    """A source of these pieces, each asked for once, and then the end; None stands for nothing yet."""

    def __init__(self, *pieces: bytes | None) -> None:
        self._pieces = list(pieces)
        self.ended = False

    def pull(self, limit: int) -> bytes | None:
        self.ended = not self._pieces
        piece = self._pieces.pop(0) if self._pieces else b""
        assert len(piece or b"") <= limit
        return piece


class Input:
    """A source that is given its bytes from outside."""

    def __init__(self, content: bytes = b"", *, ended: bool = False) -> None:
        self._content = content
        self._ended = ended

    def give(self, content: bytes, *, ended: bool = False) -> None:
        self._content += content
        self._ended = ended

    def pull(self, limit: int) -> bytes | None:
        piece, self._content = self._content[:limit], self._content[limit:]
        return piece if piece or self._ended else None


def whole(content: bytes) -> Input:
    """A source that has everything at once."""
    return Input(content, ended=True)


async def output(call: Call) -> dict[int, bytes]:
    """All output of a call, by channel, taken as it comes."""
    kept = {STDOUT: b"", STDERR: b""}
    while (piece := await call.next_output()) is not None:
        channel, payload = piece
        kept[channel] += payload
        call.took(channel, len(payload))
    return kept


def a_command(command: str = "true", **fields: Any) -> Exec:
    return Exec(id=new_call_id(), command=command, **fields)


def a_read(path: str = "/f") -> Read:
    return Read(id=new_call_id(), path=path)


def a_write(path: str = "/f", **fields: Any) -> Write:
    return Write(id=new_call_id(), path=path, **fields)


class OlderNode:
    """A node by hand, without `stream/1`, at the other end of its session."""

    def __init__(
        self, *, encrypted: bool = False, guard: bool = True, chunks: bool = False, limit: int = 100
    ) -> None:
        node = HandmadeNode()
        listed = {"capabilities": ["exec_chunk"]} if chunks else {}
        hello = node.hello(**listed) if encrypted else node.plain_hello(**listed)
        accepted = converse(gateway(TOKEN, legacy_streaming=chunks), hello, node.auth)
        assert not isinstance(accepted.codec, RecordCodec)
        self.session = OlderSession(
            accepted, codec=accepted.codec, pairing_id="p", remote_addr="a", limit=limit, guard=guard
        )
        self.line = Line()
        self.session.attach(self.line)
        self.codec: PlainCodec[FromGateway] | EncCodec[FromGateway]
        self.codec = node.codec() if encrypted else PlainCodec(FROM_GATEWAY)

    def hears(self) -> list[FromGateway | Unknown]:
        """What the session has to say."""
        said = []
        while (frame := self.session.next_frame()) is not None:
            said.append(self.codec.decode(frame))
        return said

    def says(self, *messages: Message) -> None:
        for message in messages:
            self.session.receive(self.codec.encode(message))

    def starts(self, request: Request, source: Source | None = None) -> Call:
        return self.session.start(request, source)

    def hears_command(self) -> Exec:
        """The one message that there is, which is a command."""
        (message,) = self.hears()
        assert isinstance(message, Exec)
        return message

    def answers(self, call: Call, **fields: Any) -> None:
        """Say what a command's raw result is."""
        self.says(ExecResult(**{"id": call.id, "status": "ok", **fields}))


def marker_in(command: str | None) -> str:
    """The marker of the guard around this command."""
    found = re.search("hermes[0-9a-f]{24}", command or "")
    assert found is not None
    return found[0]


def guarded_output(
    command: str | None, stdout: bytes = b"", stderr: bytes = b"", *, exit_code: int = 0, note: str = ""
) -> str:
    """What the guard around a command makes its node's shell print."""
    marker = marker_in(command)
    out, err = (base64.b64encode(stream).decode() for stream in (stdout, stderr))
    return f"{marker}out\n{out}{note}\n{marker}err\n{err}:{exit_code}:\n{marker}end {exit_code}\n\n"
