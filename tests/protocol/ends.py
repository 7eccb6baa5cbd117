"""Both ends of a `stream/1` session side by side, and sources for what they send."""

from collections.abc import Iterator
from typing import Any

from hermes_nodes.protocol.codec import Data, Frame, RecordCodec
from hermes_nodes.protocol.messages import (
    FROM_GATEWAY,
    FROM_NODE,
    FromGateway,
    FromNode,
    Message,
    Unknown,
    new_call_id,
)
from hermes_nodes.protocol.stream import STDERR, STDOUT, Budget, Source, Stream

NODE_KEY, GATEWAY_KEY = b"n" * 32, b"g" * 32
PLENTY = 1 << 40

GatewayStream = Stream[FromNode]
NodeStream = Stream[FromGateway]


def record_codecs() -> tuple[RecordCodec[FromNode], RecordCodec[FromGateway]]:
    """The gateway's and the node's."""
    return (
        RecordCodec(FROM_NODE, send_key=GATEWAY_KEY, receive_key=NODE_KEY),
        RecordCodec(FROM_GATEWAY, send_key=NODE_KEY, receive_key=GATEWAY_KEY),
    )


class Clock:
    """Stands still unless it is told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def do_nothing() -> None:
    pass


def streams(
    *, budget: Budget | None = None, node_budget: Budget | None = None, clock: Clock | None = None
) -> tuple[GatewayStream, NodeStream]:
    """The gateway's and the node's; the budget is the gateway's."""
    gateway, node = record_codecs()
    clock = clock or Clock()
    return (
        Stream(gateway, on_output=do_nothing, budget=budget or Budget(PLENTY), clock=clock),
        Stream(node, on_output=do_nothing, budget=node_budget or Budget(PLENTY), clock=clock),
    )


class Content:
    """A source of which so many bytes can be had now, and that ends when all have been."""

    def __init__(self, content: bytes, *, ready: int | None = None) -> None:
        self.content = content
        self.ready = len(content) if ready is None else ready
        self.pulled = 0
        self.ended = False

    def pull(self, limit: int) -> bytes | None:
        piece = self.content[self.pulled : min(self.pulled + limit, self.ready)]
        if not piece and self.pulled < len(self.content):
            return None
        self.pulled += len(piece)
        self.ended = not piece
        return piece


class Endless:
    """A source that always has more."""

    def pull(self, limit: int) -> bytes:
        return bytes(limit)


def output_call(gateway: GatewayStream, node: NodeStream, source: Source) -> str:
    """Open a call on both ends in which the node sends on channel 1."""
    call_id = new_call_id()
    gateway.open(call_id, sends={}, receives=(STDOUT, STDERR))
    node.open(call_id, sends={STDOUT: source}, receives=())
    node.wake(call_id, STDOUT)
    return call_id


def frames(sender: Stream[Any]) -> Iterator[Frame]:
    """What a sender has to say, until it has no more."""
    while (frame := sender.next_frame()) is not None:
        yield frame


def said(sender: Stream[Any], receiver: Stream[Any]) -> list[Message | Unknown | Data]:
    """What a sender has to say, as the receiver hears it."""
    return [receiver.receive(frame) for frame in frames(sender)]


def heard(sender: Stream[Any], receiver: Stream[Any]) -> int:
    """The bytes of data in what a sender has to say."""
    return sum(len(event.payload) for event in said(sender, receiver) if isinstance(event, Data))
