"""What tests of sessions use: the other side of one, without sockets."""

from collections.abc import Callable

from hermes_nodes.calls import Call
from hermes_nodes.protocol.codec import Frame
from hermes_nodes.protocol.stream import STDERR, STDOUT

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


async def output(call: Call) -> dict[int, bytes]:
    """All output of a call, by channel, taken as it comes."""
    kept = {STDOUT: b"", STDERR: b""}
    while (piece := await call.next_output()) is not None:
        channel, payload = piece
        kept[channel] += payload
        call.took(channel, len(payload))
    return kept
