"""The other side of an older node's session, by hand, and what tests of its calls share."""

import base64
import hashlib
import re
from typing import Any

import pytest

from hermes_nodes.calls import Call
from hermes_nodes.errors import HermesNodesError
from hermes_nodes.older.sessions import OlderSession
from hermes_nodes.protocol.codec import EncCodec, PlainCodec, RecordCodec
from hermes_nodes.protocol.messages import (
    FROM_GATEWAY,
    Exec,
    ExecResult,
    FromGateway,
    Message,
    Read,
    ReadResult,
    Request,
    Unknown,
    Write,
    new_call_id,
)
from hermes_nodes.protocol.stream import Source
from tests.protocol.guard_output import writes
from tests.protocol.support import TOKEN, HandmadeNode, converse, gateway
from tests.sessions_support import Line

both = pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "enc"])


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


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


def guarded_output(command: str | None, stdout: bytes = b"", stderr: bytes = b"", **fields: Any) -> str:
    """What the guard around a command makes its node's shell print."""
    return b"".join(writes(stdout, stderr, marker=marker_in(command), **fields)).decode()


def ending(call: Call) -> HermesNodesError:
    """The error that a call has ended with."""
    with pytest.raises(HermesNodesError) as ended:
        call.result()
    return ended.value


def paths_heard(node: OlderNode) -> list[str]:
    return [message.path for message in node.hears() if isinstance(message, Read | Write)]


def reads(node: OlderNode, count: int) -> list[Call]:
    """So many calls for the files `0`, `1` …"""
    return [node.starts(a_read(str(number))) for number in range(count)]


def read_ends(node: OlderNode, call: Call) -> None:
    node.says(ReadResult(id=call.id, status="ok"))
