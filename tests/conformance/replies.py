"""What a gateway says when it refuses, as the tables of the protocol have it."""

from typing import NamedTuple

from tests.conformance.node import Node

#: Deeper than any reader of JSON follows.
DEEP = "[" * 20_000 + "]" * 20_000
#: Text messages that hold no JSON object.
NO_OBJECTS = {
    "no JSON": "{",
    "nothing": "",
    "words": "hello",
    "two objects": "{}{}",
    "an array": "[]",
    "a string": '"hello"',
    "a number": "1",
    "null": "null",
    "not a number": '{"type": "ping", "id": NaN}',
    "too deep": DEEP,
    "no type": "{}",
    "a type that is none": '{"type": 1}',
    "an array for a type": '{"type": ["ping"]}',
}


class Refusal(NamedTuple):
    """A reply's type, reason and code, and the code of the close behind it."""

    type: str
    reason: str
    code: int
    close: int | None


async def refusal(node: Node, within: float = 20.0) -> Refusal:
    reply = await node.receive_plain(within)
    return Refusal(reply["type"], reply["reason"], reply["code"], await node.closed())


def hello_err(reason: str, code: int) -> Refusal:
    return Refusal("hello_err", reason, code, code)


def auth_err(reason: str, code: int) -> Refusal:
    return Refusal("auth_err", reason, code, code)
