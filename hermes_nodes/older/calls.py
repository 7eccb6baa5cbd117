"""A call to an older node: one message each way, all of it inside.

Each kind of call says what is sent, what its answer comes to, and how long the node may take for it.
"""

import binascii
from abc import abstractmethod
from typing import TYPE_CHECKING

from hermes_nodes.calls import Answer, Call
from hermes_nodes.errors import CallTimeout, HermesNodesError, ProtocolViolation, Unsupported
from hermes_nodes.protocol.codec import MAX_DATA
from hermes_nodes.protocol.messages import Error, ExecChunk, Request
from hermes_nodes.protocol.stream import Source

if TYPE_CHECKING:
    from hermes_nodes.older.sessions import OlderSession

_EXEC_TIMEOUT = 3001
_GOES_ON = "the command may go on there, and holds up the calls behind it until it ends"


class OlderCall(Call):
    """A call to an older node; its input is collected before it is sent."""

    #: Bytes of input that it can take.
    most_input = 0
    #: Whether a command goes to the node inside a script of ours.
    is_script = False

    def __init__(self, session: "OlderSession", request: Request, source: Source | None) -> None:
        super().__init__(session, request)
        self._name = session.name
        self._session = session
        self._source = source
        self.input = bytearray()
        #: Whether there is room for its input.
        self.may_take = False
        #: Whether all input is here.
        self.is_complete = source is None

    def collect(self) -> None:
        """Take the input that has come; raises Unsupported where it is more than fits."""
        while self._source is not None and not self.is_complete:
            piece = self._source.pull(MAX_DATA)
            if piece is None:
                return
            self.is_complete = not piece
            self.input += piece
            if len(self.input) > self.most_input:
                raise self._too_much()

    def take_input(self) -> bytearray:
        """All that has been collected, which is held here no longer."""
        taken, self.input = self.input, bytearray()
        return taken

    @property
    @abstractmethod
    def seconds(self) -> float:
        """How long the node may take to answer."""

    @property
    def reserved(self) -> int:
        """How much input it may come to hold."""
        return 0 if self._source is None else self.most_input

    @abstractmethod
    def message(self, prepare: str) -> Request:
        """What is sent to the node; a script of ours begins with the lines ``prepare``."""

    def conclude(self, answer: Answer) -> None:
        """The node's final answer: pass on what it holds, and finish. Raises ProtocolViolation."""
        if isinstance(answer, Error):
            self.finish(self._timed_out() if answer.code == _EXEC_TIMEOUT else answer)
        else:
            self._conclude(answer)

    def take_chunk(self, chunk: ExecChunk) -> bool:  # noqa: ARG002 - where it fits it is used
        """A piece of output; whether it was the last. Raises ProtocolViolation."""
        raise ProtocolViolation("exec_chunk for a call that is no exec")

    @abstractmethod
    def _conclude(self, answer: Answer) -> None: ...

    def _too_much(self) -> HermesNodesError:
        return Unsupported.older(self._name, f"takes at most {self.most_input} bytes of input in a call")

    def _timed_out(self) -> CallTimeout:
        return CallTimeout(f"the call's time-out has passed on node {self._name!r}", _GOES_ON)

    def _give(self, channel: int, content: bytes) -> None:
        """Pass output on in pieces that fit a frame; whoever has left gets none."""
        if self.finished:
            return
        self._session.gave(len(content))
        for at in range(0, len(content), MAX_DATA):
            # A copy: a view of the last piece would keep all of it, for as long as anything holds that.
            self.feed(channel, memoryview(content[at : at + MAX_DATA]))


def decoded(content: str) -> bytes:
    """Standard base64 to the letter, which Python's own decoder does not ask for: it takes any padding."""
    try:
        decoded = binascii.a2b_base64(content)
    except ValueError as error:
        raise ProtocolViolation("content that is not base64") from error
    if binascii.b2a_base64(decoded, newline=False) != content.encode():
        raise ProtocolViolation("content that is not base64")
    return decoded
